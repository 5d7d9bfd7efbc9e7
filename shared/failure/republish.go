package failure

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/subject"
)

var errNewer = errors.New("recorded by a newer version, whose planner can republish it")

// Republished is the outcome of Republish.
type Republished struct {
	Chunks int      // messages published
	Images int      // images in them
	Taken  []string // repositories of which another process has republished or removed all wanted images
}

// Republish publishes the failed images for which wanted returns true, as chunks of the given run
// that are due now. One atomic batch publishes the images of a page and removes them from the
// record, so that each image is always in a message or in a record. An unreadable message is
// republished with all images of its page. Images that cannot be put into a chunk stay recorded;
// Republish returns an error for them after it has published all others. Failures that other
// processes record meanwhile stay recorded.
func (s *Store) Republish(ctx context.Context, name, run string, wanted func(Record, Image) bool) (Republished, error) {
	var done Republished
	all, err := s.all(ctx, name)
	if err != nil {
		return done, err
	}
	var left []error
	for whole, pages := range all.wholes() {
		t := taking{store: s, name: name, run: run, whole: whole, wanted: map[imageKey]bool{}, done: map[int]bool{}}
		for _, i := range whole.Images {
			if wanted(whole, i) {
				t.wanted[i.key()] = true
			}
		}
		if len(t.wanted) == 0 {
			continue
		}
		before := done.Images
		unusable, err := t.all(ctx, pages, &done)
		if err != nil {
			return done, errors.Join(append(append(left, unusable...), err)...)
		}
		left = append(left, unusable...)
		if done.Images == before && len(unusable) == 0 {
			done.Taken = append(done.Taken, whole.Repository)
		}
	}
	return done, errors.Join(left...)
}

// taking is the republish of images of one repository.
type taking struct {
	store     *Store
	name, run string
	whole     Record
	wanted    map[imageKey]bool // of the record when it was first read
	done      map[int]bool      // numbers of pages whose images are published
}

// all publishes the wanted images of the pages. If another process has written a page, it reads the
// pages again. unusable are the errors of images that cannot be put into a chunk.
func (t *taking) all(ctx context.Context, pages []*page, done *Republished) (unusable []error, err error) {
	for {
		unusable, err = t.once(ctx, pages, done)
		t.store.overwritten(pages)
		if !errors.Is(err, broker.ErrConflict) {
			return unusable, err
		}
		if err := pauseAfterConflict(ctx); err != nil {
			return unusable, err
		}
		if pages, err = t.store.read(ctx, t.name, t.whole.Registry, t.whole.Repository); err != nil {
			return unusable, err
		}
	}
}

func (t *taking) once(ctx context.Context, pages []*page, done *Republished) (unusable []error, err error) {
	for _, p := range pages {
		taken := slices.DeleteFunc(slices.Clone(p.record.Images), func(i Image) bool { return !t.wanted[i.key()] })
		if len(taken) == 0 || t.done[p.number] {
			continue
		}
		if p.record.Message != nil {
			taken = p.record.Images
		}
		data, err := payload(t.name, t.run, p, taken)
		if err != nil {
			unusable = append(unusable, err)
			continue
		}
		if err := t.take(ctx, done.Chunks+1, p, taken, data); err != nil {
			return unusable, err
		}
		done.Chunks++
		done.Images += len(taken)
	}
	return unusable, nil
}

// take publishes images as a chunk, and removes them from their page.
func (t *taking) take(ctx context.Context, index int, p *page, images []Image, data []byte) error {
	due := nats.NewMsg(subject.NewAddress(t.name, t.run, p.record.Registry, token(index)).Under(subject.Chunk))
	due.Data = data
	gone := map[imageKey]bool{}
	for _, i := range images {
		gone[i.key()] = true
	}
	rest := *p
	rest.record.Images = slices.Clone(p.record.Images)
	rest.remove(func(i Image) bool { return gone[i.key()] })
	remaining, err := t.store.message(t.name, p.record.Registry, p.record.Repository, &rest)
	if err != nil {
		return err
	}
	if _, err := t.store.b.PublishAll(ctx, []*nats.Msg{due, remaining}); err != nil {
		return fmt.Errorf("republishing %s: %w", p.record.Repository, err)
	}
	p.changed, t.done[p.number] = true, true
	return nil
}

// payload returns the message to publish: the unreadable message of the page, unchanged, or a chunk of
// the images.
func payload(name, run string, p *page, images []Image) ([]byte, error) {
	if p.newer {
		return nil, fmt.Errorf("%s: %w", p.record.Repository, errNewer)
	}
	if p.record.Message != nil {
		return p.record.Message, nil
	}
	r := p.record
	r.Images = images
	c, err := chunk(name, run, r)
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

// token returns the chunk token of a message of a republish, counted from 1. The number of the chunk
// would not be unique, because a chunk can have several records.
func token(index int) string { return fmt.Sprintf("r%06d", index) }

// chunk returns a chunk in which each image of the record is an entry.
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
