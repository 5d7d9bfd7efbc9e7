package failure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/subject"
)

// read returns the pages of a repository, tombstones included: their sequences
// are what a write has to expect. It asks the stream's leader: a replica that is
// behind would hide what was recorded just now.
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

// page reads a page from the last message of its subject. If that is unreadable, it reads
// all of them: an older one may be the record.
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

// List returns the records of a mirror name, sorted by repository. After them come the
// unreadable messages: those on subjects of the name, and those on subjects of no name.
func (s *Store) List(ctx context.Context, name string) ([]Record, error) {
	all, err := s.all(ctx, name)
	if err != nil {
		return nil, err
	}
	var records []Record
	for _, pages := range all.records {
		if r, ok := merge(pages); ok {
			records = append(records, r)
		}
	}
	slices.SortFunc(records, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.Registry, b.Registry), cmp.Compare(a.Repository, b.Repository))
	})
	for _, f := range all.foreign {
		records = append(records, f.record())
	}
	return records, nil
}

// contents is what is kept under a mirror name.
type contents struct {
	records map[string][]*page // by the subject of the record
	foreign []foreign          // in the order of the stream
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
