package failure

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	// headerTombstone marks the message that replaces a deleted record. An atomic batch cannot
	// delete messages. Writes that expect the old record conflict with the tombstone.
	headerTombstone = "Mirror-Tombstone"
	// tombstoneTTL is longer than any operation on a record takes.
	tombstoneTTL = time.Minute
	// conflictWait is the longest pause after a conflict with another writer.
	conflictWait = 20 * time.Millisecond
)

// Store reads and writes failure records. Each write expects the record that it has read, so that
// many workers and operators can write at the same time.
type Store struct {
	b     *broker.Broker
	log   *slog.Logger
	limit int           // bytes of a page
	ttl   time.Duration // of a tombstone
}

// NewStore returns the store of a broker.
func NewStore(b *broker.Broker, log *slog.Logger) *Store {
	return &Store{b: b, log: log, limit: maxPage, ttl: tombstoneTTL}
}

// Add records the images of r as failed now. Other recorded failures of the repository stay. Add
// replaces the failure of an image that is recorded already, and cuts long reasons.
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
			image.FirstFailed = firstFailed(pages, image, r.FailedAt)
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

// firstFailed is when an image that fails now was first recorded.
func firstFailed(pages []*page, image Image, now time.Time) time.Time {
	for _, p := range pages {
		for _, known := range p.record.Images {
			switch {
			case p.newer || !known.same(image):
			case !known.FirstFailed.IsZero():
				return known.FirstFailed
			default:
				return p.record.FailedAt.Truncate(time.Second)
			}
		}
	}
	return now.Truncate(time.Second)
}

// Any reports whether there may be failures of a registry under a mirror name. It returns true for
// a while after the last one was removed.
func (s *Store) Any(ctx context.Context, name, registry string) (bool, error) {
	_, err := s.b.Next(ctx, broker.StreamName, subject.FailuresOf(name, registry), 1)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Subtract removes from the record of a repository the images for whose source mirrored returns
// true, and returns how many these were.
func (s *Store) Subtract(ctx context.Context, name, registry, repository string, mirrored func(source string) bool) (int, error) {
	removed := 0
	err := s.update(ctx, name, registry, repository, func(pages []*page) ([]*page, error) {
		removed = 0
		for _, p := range pages {
			if p.record.Message == nil && !p.newer { // otherwise, its images are not known
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

// update applies change to the pages of a repository and writes the changed ones. If another
// process has written meanwhile, it starts again.
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
		if err == nil {
			s.overwritten(pages)
		}
		if !errors.Is(err, broker.ErrConflict) {
			return err
		}
		if err := pauseAfterConflict(ctx); err != nil {
			return err
		}
	}
}

// pauseAfterConflict waits for a random moment, so that two writers do not conflict again and again.
func pauseAfterConflict(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(rand.N(conflictWait)):
		return nil
	}
}

// overwritten logs the unreadable messages that the pages just written have replaced.
func (s *Store) overwritten(pages []*page) {
	for _, p := range pages {
		for _, f := range p.foreign {
			if p.changed {
				s.log.Warn("overwrote a foreign message among the failure records",
					"message", MessageName(f.message.Sequence, f.message.Subject), "content", message.Excerpt(f.message.Data))
			}
		}
	}
}

func (s *Store) write(ctx context.Context, msgs []*nats.Msg) error {
	if len(msgs) == 1 { // this is the usual case, and cheaper than a batch
		_, err := s.b.Publish(ctx, msgs[0])
		return err
	}
	_, err := s.b.PublishAll(ctx, msgs)
	return err
}

// message returns the message that writes a page: its record or, if it is empty, a tombstone.
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

// Counter counts the recorded failures. Each call reads only what has changed since the last one. It
// is not safe for concurrent use.
type Counter struct {
	store   *Store
	images  map[string]Count // by the subject of their page
	foreign int
	read    broker.Cursor
	asked   time.Time
}

// Counts are the results of a Counter.
type Counts struct {
	Images     map[string]Count // failed images by mirror name; a name without any may be missing
	Unreadable int              // messages under the subjects of failures that are not records
}

// Count counts failed images.
type Count struct {
	Listed   int // images of the list
	LeftList int // images that have left the list
}

func (c *Count) add(o Count) {
	c.Listed += o.Listed
	c.LeftList += o.LeftList
}

func countOf(r Record) (c Count) {
	for _, i := range r.Images {
		if i.LeftList.IsZero() {
			c.Listed++
		} else {
			c.LeftList++
		}
	}
	return c
}

// Counter returns a new counter.
func (s *Store) Counter() *Counter { return &Counter{store: s} }

// Count counts the failures.
func (c *Counter) Count(ctx context.Context) (Counts, error) {
	start := time.Now()
	// A tombstone shows for a while that a record was deleted. A deleted unreadable message leaves
	// nothing, so all messages are read again if there was one.
	replaced, err := c.store.b.Replaced(ctx, broker.StreamName, &c.read)
	if err != nil {
		return Counts{}, err
	}
	if replaced || start.Sub(c.asked) > c.store.ttl/2 || c.foreign > 0 {
		c.images, c.foreign, c.read.After = map[string]Count{}, 0, 0
	}
	c.read.After, err = c.store.b.Changes(ctx, broker.StreamName, subject.Failed+".>", c.read.After, func(m *jetstream.RawStreamMsg) error {
		if record, _, err := parse(m); err == nil {
			c.images[m.Subject] = countOf(record)
		} else {
			c.foreign++
		}
		return nil
	})
	if err != nil {
		return Counts{}, err
	}
	c.asked = start
	counts := Counts{Images: map[string]Count{}, Unreadable: c.foreign}
	for subj, images := range c.images {
		if name, _, _, err := subject.ParseFailure(subj); err == nil {
			sum := counts.Images[name]
			sum.add(images)
			counts.Images[name] = sum
		}
	}
	return counts, nil
}
