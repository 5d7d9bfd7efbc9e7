package failure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	// headerTombstone marks the message that stands where a record was. A batch
	// cannot delete, and the tombstone is what a second operator collides with.
	headerTombstone = "Mirror-Tombstone"
	// tombstoneTTL outlives any operation that has read the record before it.
	tombstoneTTL = time.Minute
	// conflictWait is the longest pause after a collision with another writer.
	conflictWait = 20 * time.Millisecond
	// readers bounds the requests of List that are under way at once.
	readers = 16
)

// Store reads and writes failure records. Every write is a compare-and-set on
// the repository's record, so that any number of workers and operators can write.
type Store struct {
	b     *broker.Broker
	limit int           // bytes of a page
	ttl   time.Duration // of a tombstone
}

// NewStore returns the store of a broker.
func NewStore(b *broker.Broker) *Store { return &Store{b: b, limit: maxPage, ttl: tombstoneTTL} }

// Add records the images of r as failed now, beside what is recorded of the same
// repository. An image that is recorded already is replaced. Reasons are cut where
// they are longer than a few lines.
func (s *Store) Add(ctx context.Context, name string, r Record) error {
	r = r.storable()
	images := r.Images
	r.Images = nil
	r.FailedAt = time.Now().UTC()
	err := s.update(ctx, name, r.Registry, r.Repository, func(pages []*page) ([]*page, error) {
		envelope, err := (&page{record: r}).encode()
		if err != nil {
			return nil, err
		}
		for _, image := range images {
			pages = put(pages, r.Message, image, s.limit-len(envelope))
		}
		for _, p := range pages {
			if p.changed {
				on := p.record.Images
				p.record = r
				p.record.Images = on
			}
		}
		return pages, nil
	})
	if err != nil {
		return fmt.Errorf("recording the failures of %s: %w", r.Repository, err)
	}
	return nil
}

// Subtract takes the images whose source mirrored reports true for out of the
// repository's record, and returns how many there were.
func (s *Store) Subtract(ctx context.Context, name, registry, repository string, mirrored func(source string) bool) (int, error) {
	removed := 0
	err := s.update(ctx, name, registry, repository, func(pages []*page) ([]*page, error) {
		removed = 0
		for _, p := range pages {
			if p.record.Message == nil && !p.newer { // what is in it nobody knows
				removed += p.remove(func(i Image) bool { return mirrored(i.Source) })
			}
		}
		return pages, nil
	})
	if err != nil {
		return 0, fmt.Errorf("updating the failures of %s: %w", repository, err)
	}
	return removed, nil
}

// update applies change to the pages of a repository and writes those that it has
// changed, again and again until nobody else has written in between.
func (s *Store) update(ctx context.Context, name, registry, repository string, change func([]*page) ([]*page, error)) error {
	for {
		pages, err := s.read(ctx, name, registry, repository)
		if err != nil {
			return err
		}
		if pages, err = change(pages); err != nil {
			return err
		}
		var msgs []*nats.Msg
		for _, p := range pages {
			if !p.changed {
				continue
			}
			m, err := s.message(name, registry, repository, p)
			if err != nil {
				return err
			}
			msgs = append(msgs, m)
		}
		err = s.write(ctx, msgs)
		if !errors.Is(err, broker.ErrConflict) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(rand.N(conflictWait)):
		}
	}
}

func (s *Store) write(ctx context.Context, msgs []*nats.Msg) error {
	if len(msgs) == 1 { // the most frequent, and cheaper than a batch
		_, err := s.b.Publish(ctx, msgs[0])
		return err
	}
	_, err := s.b.PublishAll(ctx, msgs)
	return err
}

// message is the write of a page: its record, or the tombstone of an empty one.
func (s *Store) message(name, registry, repository string, p *page) (*nats.Msg, error) {
	subj := subject.Failure(name, registry, repository, p.number)
	if len(p.record.Images) == 0 {
		return s.tombstone(subj, p.sequence), nil
	}
	data, err := p.encode()
	if err != nil {
		return nil, err
	}
	m := nats.NewMsg(subj)
	m.Data = data
	return broker.ExpectLast(m, p.sequence), nil
}

func (s *Store) tombstone(subj string, sequence uint64) *nats.Msg {
	m := nats.NewMsg(subj)
	m.Header.Set(headerTombstone, "1")
	m.Header.Set(jetstream.MsgTTLHeader, s.ttl.String())
	return broker.ExpectLast(m, sequence)
}

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
		m, err := s.b.Last(ctx, broker.StreamName, subj)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		p, err := parse(m.Subject, m.Sequence, m.Header, m.Data)
		if err != nil {
			return nil, err
		}
		pages = append(pages, p)
	}
	slices.SortFunc(pages, func(a, b *page) int { return cmp.Compare(a.number, b.number) })
	return pages, nil
}

// List returns the records of a mirror name, sorted by repository.
func (s *Store) List(ctx context.Context, name string) ([]Record, error) {
	byRepository, err := s.all(ctx, name)
	if err != nil {
		return nil, err
	}
	var records []Record
	for _, pages := range byRepository {
		if r, ok := merge(pages); ok {
			records = append(records, r)
		}
	}
	slices.SortFunc(records, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.Registry, b.Registry), cmp.Compare(a.Repository, b.Repository))
	})
	return records, nil
}

// all returns every page of a mirror name, by the subject of its record.
func (s *Store) all(ctx context.Context, name string) (map[string][]*page, error) {
	info, err := s.b.Stream.Info(ctx, jetstream.WithSubjectFilter(subject.OfName(subject.Failed, name)))
	if err != nil {
		return nil, fmt.Errorf("listing the failures of %s: %w", name, err)
	}
	subjects := make([]string, 0, len(info.State.Subjects))
	for subj := range info.State.Subjects {
		subjects = append(subjects, subj)
	}
	slices.Sort(subjects)
	pages := make([]*page, len(subjects))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for i, subj := range subjects {
		group.Go(func() error {
			m, err := s.b.Stream.GetLastMsgForSubject(ctx, subj)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return nil // its tombstone has expired
			}
			if err != nil {
				return fmt.Errorf("reading %s: %w", subj, err)
			}
			pages[i], err = parse(subj, m.Sequence, m.Header, m.Data)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	records := map[string][]*page{}
	for i, p := range pages {
		if p != nil {
			record := strings.TrimSuffix(subjects[i], "."+strconv.Itoa(p.number))
			if p.number == 1 {
				record = subjects[i]
			}
			records[record] = append(records[record], p)
		}
	}
	return records, nil
}
