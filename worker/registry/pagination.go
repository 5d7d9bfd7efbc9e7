package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/osism/skopeo-worker/shared/reference"
)

// Limits of a list in pages. The largest repositories of public registries have some 50,000 tags.
const (
	// maxTags is how many tags of a repository are listed.
	maxTags = 250_000
	// maxPages is how many pages a list may have. Registries with short pages send some fifty
	// tags on each.
	maxPages = 10_000
	// maxEmpty is how many pages in a row may be empty: registries leave out items that the login
	// may not see.
	maxEmpty = 100
)

// Pages detects an endless list. Its zero value is ready for the first page.
type Pages struct {
	pages, items, empty int
	seen                map[[sha256.Size]byte]int // page by its position or content
}

// At begins the next page. The position identifies the page; it may be "". The error is ErrPagination
// if an earlier page had the same position, and ErrTooMany after maxPages.
func (p *Pages) At(position string) error {
	if p.pages++; p.pages > maxPages {
		return fmt.Errorf("%w pages: the list has more than %d", ErrTooMany, maxPages)
	}
	if position == "" {
		return nil
	}
	return p.note("at", position)
}

// Has notes how many items the page has. The error is ErrTooMany after maxTags, or
// ErrPagination if too many pages in a row are empty.
func (p *Pages) Has(items int) error {
	p.items += items
	if p.items > maxTags {
		return fmt.Errorf("%w: the list has more than %d", ErrTooMany, maxTags)
	}
	if p.empty++; items > 0 {
		p.empty = 0
	}
	if p.empty > maxEmpty {
		return fmt.Errorf("%w: %d pages in a row are empty", ErrPagination, p.empty)
	}
	return nil
}

// Holds notes the content of the page. The error is ErrPagination if an earlier page had the
// same content.
func (p *Pages) Holds(items ...string) error {
	if len(items) == 0 {
		return nil
	}
	return p.note(append([]string{"holds"}, items...)...)
}

// note remembers a hash of the parts, because positions and contents may be long.
func (p *Pages) note(parts ...string) error {
	hash := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(hash, "%d:%s", len(part), part)
	}
	sum := [sha256.Size]byte(hash.Sum(nil))
	if before, again := p.seen[sum]; again {
		return fmt.Errorf("%w: page %d repeats page %d", ErrPagination, p.pages, before)
	}
	if p.seen == nil {
		p.seen = map[[sha256.Size]byte]int{}
	}
	p.seen[sum] = p.pages
	return nil
}

// ReadList parses a JSON array of at most limit items; it returns nil if the array is null or absent.
// If there are more items, the error is ErrTooMany. It does not parse those, because short JSON can
// need much memory.
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

// The relevant parameters of a link. A link without a relation is invalid (RFC 8288, section 3.3), and
// one with an anchor concerns another resource (section 3.2).
const (
	paramRel    = "rel"
	paramAnchor = "anchor"
)

// relNext is the relation of a page to the next one.
const relNext = "next"

// link is a link of a Link header.
type link struct {
	target string
	params []param
}

// param is a parameter of a link. Its name is in lower case.
type param struct{ name, value string }

// get returns the first parameter with a name. RFC 8288 requires ignoring the others.
func (l link) get(name string) (value string, ok bool) {
	i := slices.IndexFunc(l.params, func(p param) bool { return p.name == name })
	if i < 0 {
		return "", false
	}
	return l.params[i].value, true
}

// relation matches a registered name (RFC 8288, section 3.3) or a URI.
var relation = regexp.MustCompile(`(?i)^[a-z](?:[a-z0-9.-]*|[a-z0-9+.-]*:\S+)$`)

// next reports whether the link has the relation "next", in upper or lower case, among others. RFC
// 8288 requires ignoring every rel after the first. If one of those is "next", the list would end too
// early, so next returns an error.
func (l link) next() (bool, error) {
	value, _ := l.get(paramRel)
	relations := strings.Fields(value)
	if len(relations) == 0 {
		return false, fmt.Errorf("%w: the Link to %s has no relation", ErrPagination, reference.Quote(l.target))
	}
	for _, r := range relations {
		if !relation.MatchString(r) {
			return false, fmt.Errorf("%w: the Link to %s has the relation %s", ErrPagination, reference.Quote(l.target), reference.Quote(r))
		}
	}
	if slices.ContainsFunc(relations, isNext) {
		return true, nil
	}
	for _, p := range l.params {
		if p.name == paramRel && slices.ContainsFunc(strings.Fields(p.value), isNext) {
			return false, fmt.Errorf("%w: the Link to %s has the relation next after another rel", ErrPagination, reference.Quote(l.target))
		}
	}
	return false, nil
}

func isNext(relation string) bool { return strings.EqualFold(relation, relNext) }

// nextQuery returns the query of the next page, or "" after the last one. It uses only the query of a
// link, because proxies may change the host, scheme or path of a registry. The error is ErrPagination:
// the list cannot be read to its end.
func (call *call) nextQuery(got answer) (string, error) {
	links, err := parseLinks(got.header)
	if err != nil {
		return "", err
	}
	next := ""
	for _, l := range links {
		following, err := l.next()
		if err != nil {
			return "", err
		}
		if !following {
			continue
		}
		query, err := call.queryOf(l, got.url)
		if err != nil {
			return "", err
		}
		if next != "" && next != query {
			return "", fmt.Errorf("%w: there are two next pages, %s and %s", ErrPagination, reference.Quote(next), reference.Quote(query))
		}
		next = query
	}
	return next, nil
}

// queryOf returns the query of a link to the next page.
func (call *call) queryOf(l link, page *url.URL) (string, error) {
	target, err := url.Parse(l.target)
	if err != nil || strings.Contains(l.target, " ") {
		return "", fmt.Errorf("%w: the link to the next page is not a URL: %s", ErrPagination, reference.Quote(l.target))
	}
	query := target.RawQuery // before ResolveReference, which may use the query of this page
	target = page.ResolveReference(target)
	_, elsewhere := l.get(paramAnchor)
	if elsewhere || query == "" || !strings.HasSuffix(target.Path, "/"+call.below()) {
		return "", fmt.Errorf("%w: the next page is not one of this list: %s", ErrPagination, reference.Quote(l.target))
	}
	return query, nil
}

// errLink is returned for a header that does not follow RFC 8288.
var errLink = errors.New(`expected <target>; rel="relation"`)

// parseLinks parses all Link headers according to RFC 8288, appendix B.2. It returns an error for an
// invalid link, which the RFC skips: it may be the link to the next page.
func parseLinks(header http.Header) ([]link, error) {
	var links []link
	for _, value := range header.Values("Link") {
		rest := value
		for rest = skip(rest, " \t,"); rest != ""; rest = skip(rest, " \t,") {
			var l link
			var err error
			if l, rest, err = cutLink(rest); err != nil {
				return nil, fmt.Errorf("%w: the Link header %s: %w", ErrPagination, reference.Quote(value), err)
			}
			links = append(links, l)
		}
	}
	return links, nil
}

// cutLink splits the first link off a header. The rest begins with a comma.
func cutLink(s string) (l link, rest string, err error) {
	inside, ok := strings.CutPrefix(s, "<")
	if !ok {
		return link{}, "", errLink
	}
	if l.target, rest, ok = strings.Cut(inside, ">"); !ok {
		return link{}, "", errLink
	}
	for rest = skip(rest, " \t"); rest != "" && rest[0] != ','; rest = skip(rest, " \t") {
		if rest[0] != ';' {
			return link{}, "", errLink
		}
		var p param
		if p, rest, err = cutParam(skip(rest[1:], " \t")); err != nil {
			return link{}, "", err
		}
		if p.name != "" { // a semicolon may be the last character
			l.params = append(l.params, p)
		}
	}
	return l, rest, nil
}

// cutParam splits a parameter off a header. Its value may be absent, a token or a quoted
// string.
func cutParam(s string) (p param, rest string, err error) {
	end := strings.IndexAny(s, "=;,")
	if end < 0 {
		end = len(s)
	}
	p.name = strings.ToLower(strings.TrimRight(s[:end], " \t"))
	rest = s[end:]
	if rest == "" || rest[0] != '=' {
		return p, rest, nil
	}
	rest = skip(rest[1:], " \t")
	if strings.HasPrefix(rest, `"`) {
		p.value, rest, err = cutQuoted(rest[1:])
		return p, rest, err
	}
	end = strings.IndexAny(rest, ";,")
	if end < 0 {
		end = len(rest)
	}
	p.value = strings.TrimRight(rest[:end], " \t")
	return p, rest[end:], nil
}

// cutQuoted splits the rest of a quoted string off. A backslash escapes the next character
// (RFC 9110, section 5.6.4).
func cutQuoted(s string) (value, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], nil
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return "", "", errLink
}

func skip(s, cutset string) string { return strings.TrimLeft(s, cutset) }
