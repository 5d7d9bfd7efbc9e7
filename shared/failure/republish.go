package failure

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/subject"
)

// ErrNewer is returned by Republish and Forget if a record was written by a newer version.
var ErrNewer = errors.New("recorded by a newer version, whose planner can republish it")

// Republished is the outcome of Republish.
type Republished struct {
	Chunks int      // messages published
	Images int      // images in them
	Taken  []string // repositories that another process has republished or changed
}

// Republish publishes the images of every record for which match returns true, as chunks of
// the given run, due now. Each page of a record is replaced by its chunk in one atomic
// batch: an image is at every moment in a message or in a record. A record of which no
// chunk can be made stays as it is; the error for it is returned after all others are
// published.
func (s *Store) Republish(ctx context.Context, name, run string, match func(Record) bool) (Republished, error) {
	var done Republished
	all, err := s.all(ctx, name)
	if err != nil {
		return done, err
	}
	var left []error
	for _, subj := range slices.Sorted(maps.Keys(all.records)) {
		pages := all.records[subj]
		whole, ok := merge(pages)
		if !ok || !match(whole) {
			continue
		}
		for _, p := range pages {
			if len(p.record.Images) == 0 {
				continue
			}
			data, err := payload(name, run, p)
			if err != nil {
				left = append(left, err)
				continue
			}
			err = s.republish(ctx, name, run, done.Chunks+1, p, data)
			switch {
			case err == nil:
				p.changed = true
				done.Chunks++
				done.Images += len(p.record.Images)
			case !errors.Is(err, broker.ErrConflict):
				return done, errors.Join(append(left, err)...)
			case !slices.Contains(done.Taken, whole.Repository):
				done.Taken = append(done.Taken, whole.Repository)
			}
		}
		s.overwritten(pages)
	}
	return done, errors.Join(left...)
}

// payload returns the message to publish: the unreadable one as it came, or a chunk.
func payload(name, run string, p *page) ([]byte, error) {
	if p.newer {
		return nil, fmt.Errorf("%s: %w", p.record.Repository, ErrNewer)
	}
	if p.record.Message != nil {
		return p.record.Message, nil
	}
	c, err := chunk(name, run, p.record)
	if err != nil {
		return nil, err
	}
	data, err := c.Encode()
	if err != nil {
		return nil, err
	}
	if _, err := message.Decode(data); err != nil { // no worker could read it
		return nil, fmt.Errorf("republishing %s: %w", reference.Quote(p.record.Repository), err)
	}
	return data, nil
}

func (s *Store) republish(ctx context.Context, name, run string, index int, p *page, data []byte) error {
	r := p.record
	due := nats.NewMsg(subject.NewAddress(name, run, r.Registry, Token(index)).Under(subject.Chunk))
	due.Data = data
	subj := subject.Failure(name, r.Registry, r.Repository, p.number)
	if _, err := s.b.PublishAll(ctx, []*nats.Msg{due, s.tombstone(subj, p.sequence)}); err != nil {
		return fmt.Errorf("republishing %s: %w", r.Repository, err)
	}
	return nil
}

// Token is the chunk token of a message of a republish, counted from 1. It is not a chunk
// number, because several records can come from one chunk.
func Token(index int) string { return fmt.Sprintf("r%06d", index) }

// chunk makes the message of a page: each image an entry of its own.
func chunk(name, run string, r Record) (message.Chunk, error) {
	c := message.Chunk{Name: name, Run: run, Number: r.Chunk, Registry: r.Registry, Republished: true}
	for _, i := range r.Images {
		from, err := reference.ParseCanonical(i.Source)
		if err != nil {
			return c, fmt.Errorf("republishing %s: %w", reference.Quote(i.Source), err)
		}
		to, err := reference.ParseCanonical(i.Destination)
		if err != nil {
			return c, fmt.Errorf("republishing %s: its destination: %w", reference.Quote(i.Source), err)
		}
		c.Repositories = append(c.Repositories, message.Repository{
			Source: from.Repository, Destination: to.Repository, Tag: from.Tag, Digest: from.Digest, Selection: i.Selection,
		})
	}
	return c, nil
}
