package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
)

// Bounds of a list that comes in pages. They are far beyond what there is: the largest
// repositories of public registries have some 50,000 tags.
const (
	// MaxTags is how many tags of a repository are listed at most.
	MaxTags = 250_000
	// MaxPages is how many pages a list has at most. Registries with short pages send
	// some fifty tags on each.
	MaxPages = 10_000
	// maxEmpty is how many pages in a row may have nothing on them: registries leave out
	// what we may not see.
	maxEmpty = 100
)

// Pages notices a list that has no end, whose pages are counted from 1. The zero value is
// before the first page.
type Pages struct {
	pages, items, empty int
	seen                map[[sha256.Size]byte]int // page by its position or content
}

// At notes where the next page is, "" where nothing tells it. The error is an
// ErrPagination where a page was there before, whatever was in between.
func (p *Pages) At(position string) error {
	if p.pages++; p.pages > MaxPages {
		return fmt.Errorf("%w pages: the list has more than %d", ErrTooMany, MaxPages)
	}
	if position == "" {
		return nil
	}
	return p.note("at", position)
}

// Has notes how many items are on the page. The error is an ErrTooMany, or an
// ErrPagination where one page after the other has none.
func (p *Pages) Has(items int) error {
	p.items += items
	if p.items > MaxTags {
		return fmt.Errorf("%w: the list has more than %d", ErrTooMany, MaxTags)
	}
	if p.empty++; items > 0 {
		p.empty = 0
	}
	if p.empty > maxEmpty {
		return fmt.Errorf("%w: %d pages in a row have nothing on them", ErrPagination, p.empty)
	}
	return nil
}

// Holds notes what is on the page. The error is an ErrPagination where another page held
// the same.
func (p *Pages) Holds(items ...string) error {
	if len(items) == 0 {
		return nil
	}
	return p.note(append([]string{"holds"}, items...)...)
}

// note remembers a hash of the parts: positions and contents may be long.
func (p *Pages) note(parts ...string) error {
	hash := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(hash, "%d:%s", len(part), part)
	}
	sum := [sha256.Size]byte(hash.Sum(nil))
	if before, again := p.seen[sum]; again {
		return fmt.Errorf("%w: page %d is page %d again", ErrPagination, p.pages, before)
	}
	if p.seen == nil {
		p.seen = map[[sha256.Size]byte]int{}
	}
	p.seen[sum] = p.pages
	return nil
}

// ReadList reads a JSON array of so many items at most; nil where it is null or absent.
// The error is an ErrTooMany where there are more: they are not even read, because a few
// bytes of JSON become many in memory.
func ReadList[T any](data []byte, limit int) ([]T, error) {
	if text := bytes.TrimSpace(data); len(text) == 0 || string(text) == "null" {
		return nil, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if start, err := decoder.Token(); err != nil || start != json.Delim('[') {
		return nil, fmt.Errorf("%w: expected an array", ErrUnexpected)
	}
	list := []T{}
	for decoder.More() {
		if len(list) == limit {
			return nil, fmt.Errorf("%w: the list has more than %d", ErrTooMany, limit)
		}
		var item T
		if err := decoder.Decode(&item); err != nil {
			return nil, err
		}
		list = append(list, item)
	}
	if _, err := decoder.Token(); err != nil && err != io.EOF {
		return nil, err
	}
	return list, nil
}
