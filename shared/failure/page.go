package failure

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	// maxPage is the size in bytes that a page stays below.
	maxPage = message.MaxSize
	// recordVersion is the newest format of a page that this build understands. Raise it if an
	// older build would lose data when it writes the page again.
	recordVersion = 1
)

// versioned is a page as the stream holds it.
type versioned struct {
	Version int `json:"version"`
	Record
}

// page is one message of a record. Its sequence is the last one of its subject: that of the record,
// of its tombstone, or of a foreign message. It is 0 if the subject has no message.
type page struct {
	number   int
	sequence uint64
	record   Record
	size     int       // bytes of the encoded images
	changed  bool      // it is to be written
	newer    bool      // it has a newer format: its readable part is shown, and it is never rewritten
	foreign  []foreign // unreadable messages on the same subject
}

// read reads a message of the page's subject. Calls must be in the order of sequences.
func (p *page) read(m *jetstream.RawStreamMsg) {
	p.sequence = m.Sequence
	record, newer, err := parse(m)
	if err != nil {
		p.foreign = append(p.foreign, foreign{m, err})
		return
	}
	p.record, p.newer, p.size = record, newer, 0
	for _, i := range record.Images {
		p.size += size(i)
	}
}

// These errors are the reasons why a message with valid JSON is not a record.
var (
	errNoRecord = errors.New("it is not the record of its subject")
	errTooNew   = errors.New("a newer version may read it")
)

// parse reads a page. For a tombstone, it returns an empty record. newer is true if the page has a
// newer format, which may have unknown fields.
func parse(m *jetstream.RawStreamMsg) (r Record, newer bool, err error) {
	name, _, number, err := subject.ParseFailure(m.Subject)
	if err != nil {
		return r, false, err
	}
	if m.Header.Get(headerTombstone) != "" && len(m.Data) == 0 {
		return r, false, nil
	}
	var content versioned
	err = json.Unmarshal(m.Data, &content) // also fills fields after one of another type
	r, newer = content.Record, content.Version > recordVersion
	if err != nil && !newer {
		return r, false, err
	}
	if newer && !r.complete() {
		return r, false, errTooNew
	}
	if !r.complete() || !newer && subject.Failure(name, r.Registry, r.Repository, number) != m.Subject {
		return r, false, errNoRecord
	}
	return r, newer, nil
}

func (p *page) encode() ([]byte, error) {
	data, err := json.Marshal(versioned{recordVersion, p.record})
	if err != nil {
		return nil, fmt.Errorf("encoding the failures of %s: %w", p.record.Repository, err)
	}
	return data, nil
}

// takes reports whether images may be added to the page. message is the unreadable message that they
// came with, or nil. Such a message is republished with all images of its page, so they share a page
// only with each other. A page whose subject has only foreign messages takes no images.
func (p *page) takes(message []byte) bool {
	if p.newer {
		return false
	}
	if len(p.record.Images) == 0 {
		return len(p.foreign) == 0
	}
	have := p.record.Message
	return (have == nil) == (message == nil) && bytes.Equal(have, message)
}

func (p *page) add(message []byte, image Image) {
	p.record.Message = message
	p.record.Images = append(p.record.Images, image)
	p.size += size(image)
	p.changed = true
}

// remove removes the images for which unwanted returns true, and returns how many.
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

// put adds an image to the first page that has room for it, or to a new page, and removes it from
// other pages. limit is the largest size of a page's images in bytes. Page numbers are not reused
// while their subject has a message.
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

// size returns the bytes that an image takes in its page, with LeftList set.
func size(i Image) int {
	i.LeftList = time.Unix(1, 0).UTC() // to the second, as MarkLeft sets it
	data, _ := json.Marshal(i)
	return len(data) + len(",")
}

// read returns the pages of a repository. It includes tombstones, because a write must expect their
// sequences. It asks the leader of the stream, because a replica may lack the newest failures.
func (s *Store) read(ctx context.Context, name, registry, repository string) ([]*page, error) {
	first := subject.Failure(name, registry, repository, 1)
	further, err := s.b.Stream.Info(ctx, jetstream.WithSubjectFilter(first+".*"))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", first, err)
	}
	var pages []*page
	for _, subj := range append(slices.Collect(maps.Keys(further.State.Subjects)), first) {
		_, _, number, err := subject.ParseFailure(subj)
		if err != nil {
			continue
		}
		p, err := s.page(ctx, subj, number)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		pages = append(pages, p)
	}
	slices.SortFunc(pages, func(a, b *page) int { return cmp.Compare(a.number, b.number) })
	return pages, nil
}

// page reads a page from the last message of its subject. If that is unreadable, it reads all
// messages of the subject, because an older one may be the record.
func (s *Store) page(ctx context.Context, subj string, number int) (*page, error) {
	m, err := s.b.Last(ctx, broker.StreamName, subj)
	if err != nil {
		return nil, err
	}
	p := &page{number: number}
	if p.read(m); len(p.foreign) == 0 {
		return p, nil
	}
	p = &page{number: number}
	for from := uint64(1); ; from = m.Sequence + 1 {
		m, err = s.b.Next(ctx, broker.StreamName, subj, from)
		if errors.Is(err, jetstream.ErrMsgNotFound) && p.sequence > 0 {
			return p, nil
		}
		if err != nil {
			return nil, err
		}
		p.read(m)
	}
}

// List returns the records of a mirror name, sorted by repository, and then the unreadable messages
// whose subject has this name, or none.
func (s *Store) List(ctx context.Context, name string) ([]Record, error) {
	all, err := s.all(ctx, name)
	if err != nil {
		return nil, err
	}
	var records []Record
	for r := range all.wholes() {
		records = append(records, r)
	}
	slices.SortFunc(records, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.Registry, b.Registry), cmp.Compare(a.Repository, b.Repository))
	})
	for _, f := range all.foreign {
		records = append(records, f.record())
	}
	return records, nil
}

// contents are the records and unreadable messages of a mirror name.
type contents struct {
	records map[string][]*page // by the subject of the record
	foreign []foreign          // in the order of the stream
}

// wholes yields the records that have images, sorted by subject, with their pages.
func (c contents) wholes() iter.Seq2[Record, []*page] {
	return func(yield func(Record, []*page) bool) {
		for _, subj := range slices.Sorted(maps.Keys(c.records)) {
			if whole, ok := merge(c.records[subj]); ok && !yield(whole, c.records[subj]) {
				return
			}
		}
	}
}

// all returns every page of a mirror name, and the unreadable messages.
func (s *Store) all(ctx context.Context, name string) (contents, error) {
	found := contents{records: map[string][]*page{}}
	pages := map[string]*page{}
	_, err := s.b.Changes(ctx, broker.StreamName, subject.Failed+".>", 0, func(m *jetstream.RawStreamMsg) error {
		of, record, number, err := subject.ParseFailure(m.Subject)
		switch {
		case err != nil:
			found.foreign = append(found.foreign, foreign{m, err})
			return nil
		case of != name:
			return nil
		}
		p := pages[m.Subject]
		if p == nil {
			p = &page{number: number}
			pages[m.Subject] = p
			found.records[record] = append(found.records[record], p)
		}
		before := len(p.foreign)
		p.read(m)
		found.foreign = append(found.foreign, p.foreign[before:]...)
		return nil
	})
	if err != nil {
		return contents{}, fmt.Errorf("listing the failures of %s: %w", name, err)
	}
	for _, pages := range found.records {
		slices.SortFunc(pages, func(a, b *page) int { return cmp.Compare(a.number, b.number) })
	}
	return found, nil
}
