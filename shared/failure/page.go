package failure

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/osism/skopeo-worker/shared/message"
)

const (
	// maxPage is the size in bytes that a page stays below.
	maxPage = message.MaxSize
	// recordVersion is the newest format of a page this build understands. It is
	// raised when an older build would lose something by writing the page again.
	recordVersion = 1
)

// versioned is a page as the stream holds it.
type versioned struct {
	Version int `json:"version"`
	Record
}

// page is one message of a record. Sequence is the last of its subject: of the
// record, of its tombstone, or 0 where there is neither.
type page struct {
	number   int
	sequence uint64
	record   Record
	size     int  // bytes of the encoded images
	changed  bool // is to be written
	newer    bool // is of a newer format: what of it can be read is shown, and it stays as it is
}

func parse(subj string, sequence uint64, header nats.Header, data []byte) (*page, error) {
	p := &page{number: pageNumber(subj), sequence: sequence}
	if header.Get(headerTombstone) != "" {
		return p, nil
	}
	var content versioned
	err := json.Unmarshal(data, &content) // goes on after a field of another type
	p.record, p.newer = content.Record, content.Version > recordVersion
	if err != nil && !p.newer {
		return nil, fmt.Errorf("reading the failure record %s: %w", subj, err)
	}
	for _, i := range p.record.Images {
		p.size += size(i)
	}
	return p, nil
}

// pageNumber is the sixth token of a failure's subject, and 1 where there is none.
func pageNumber(subj string) int {
	t := strings.Split(subj, ".")
	if n, err := strconv.Atoi(t[len(t)-1]); err == nil && len(t) == 6 {
		return n
	}
	return 1
}

func (p *page) encode() ([]byte, error) {
	data, err := json.Marshal(versioned{recordVersion, p.record})
	if err != nil {
		return nil, fmt.Errorf("encoding the failures of %s: %w", p.record.Repository, err)
	}
	return data, nil
}

// takes reports whether images that came with the given message, or with none, may
// stand on the page. A message is republished as it is, and everything on its page
// with it.
func (p *page) takes(message []byte) bool {
	if p.newer {
		return false
	}
	have := p.record.Message
	return len(p.record.Images) == 0 || (have == nil) == (message == nil) && bytes.Equal(have, message)
}

func (p *page) add(message []byte, image Image) {
	p.record.Message = message
	p.record.Images = append(p.record.Images, image)
	p.size += size(image)
	p.changed = true
}

// remove takes out the images that unwanted reports true for, and returns how many
// there were.
func (p *page) remove(unwanted func(Image) bool) int {
	before := len(p.record.Images)
	p.record.Images = slices.DeleteFunc(p.record.Images, func(i Image) bool {
		if !unwanted(i) {
			return false
		}
		p.size -= size(i)
		return true
	})
	n := before - len(p.record.Images)
	p.changed = p.changed || n > 0
	return n
}

// put adds an image to the first page with room for it, or to a new one, and takes
// it out of where it was. limit is what the images of a page may take. A page
// number is used again only once its message has expired, or as the successor of
// its tombstone, so that its sequence is known.
func put(pages []*page, message []byte, image Image, limit int) []*page {
	number := 1
	for _, p := range pages {
		if p.takes(message) {
			p.remove(image.same)
		}
		number = max(number, p.number+1)
	}
	for _, p := range pages {
		if p.takes(message) && p.size+size(image) < limit {
			p.add(message, image)
			return pages
		}
	}
	p := &page{number: number}
	p.add(message, image)
	return append(pages, p)
}

// size is what an image takes in its page.
func size(i Image) int {
	data, _ := json.Marshal(i)
	return len(data) + len(",")
}
