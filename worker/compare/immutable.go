package compare

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// ErrImmutable is the reason of Keep.
var ErrImmutable = errors.New("the source has moved an immutable tag")

// Held is what a destination has under an immutable tag.
type Held struct {
	From   reference.Repository // the source
	Source reference.Digest     // that was mirrored
	At     reference.Digest     // that it has at the destination
	// Fresh says that no request is needed for it while the destination lists the tag.
	Fresh bool
}

// Backup is another tag for what a tag has had.
type Backup struct {
	Name   reference.Tag    `json:"tag"`
	Digest reference.Digest `json:"digest"`
}

// immutables are what destinations have under immutable tags.
type immutables struct {
	mu       sync.Mutex
	matchers map[Entry]*selection.Matcher
	known    map[reference.Repository]func() (map[reference.Tag]Held, error) // by destination
	seen     map[reference.Repository]map[reference.Tag]Held                 // since the Comparer was made
}

// IsImmutable reports whether the tag of an image is never replaced.
func (c *Comparer) IsImmutable(r message.Repository, i message.Image) bool {
	if r.Selection == nil || len(r.Selection.Immutable) == 0 {
		return false
	}
	c.immutables.mu.Lock()
	defer c.immutables.mu.Unlock()
	m := c.immutables.matchers[EntryOf(r)]
	if m == nil {
		var err error
		if m, err = (selection.Selection{Immutable: r.Selection.Immutable}).Compile(); err != nil {
			return true // the planner has checked it; nothing is replaced by mistake
		}
		set(&c.immutables.matchers, EntryOf(r), m)
	}
	return m.Immutable(DestinationTag(i).String())
}

// heldAt returns what the destination of an entry has under immutable tags. It is asked for
// once, and the destination for the names of its tags: it may have lost them.
func (c *Comparer) heldAt(ctx context.Context, r message.Repository) (map[reference.Tag]Held, error) {
	c.immutables.mu.Lock()
	known := c.immutables.known[r.Destination]
	if known == nil {
		known = sync.OnceValues(func() (map[reference.Tag]Held, error) {
			held, err := c.Held(ctx, r.Destination)
			if err == nil {
				c.refresh(ctx, r, held)
			}
			return held, err
		})
		set(&c.immutables.known, r.Destination, known)
	}
	c.immutables.mu.Unlock()
	return known()
}

// refresh makes those tags stale that the destination does not list. They are looked up then,
// as are all of them if it cannot be asked.
func (c *Comparer) refresh(ctx context.Context, r message.Repository, held map[reference.Tag]Held) {
	if len(held) == 0 {
		return
	}
	var listed map[reference.Tag]bool
	err := c.Asker.Ask(ctx, r, r.Destination, func() (err error) {
		listed, err = c.Mirror.Tags(ctx, r.Destination)
		return err
	})
	for tag, h := range held {
		h.Fresh = h.Fresh && err == nil && listed[tag]
		held[tag] = h
	}
}

// fixed returns the digests of tags of which the source need not be asked, because the
// destination has them and they are immutable. The error is Held's.
func (c *Comparer) fixed(ctx context.Context, r message.Repository) (map[reference.Tag]reference.Digest, error) {
	if len(r.Selection.Immutable) == 0 {
		return nil, nil
	}
	held, err := c.heldAt(ctx, r)
	digests := map[reference.Tag]reference.Digest{}
	for tag, h := range held {
		if h.Fresh && h.From == r.Source && c.IsImmutable(r, message.Image{Tag: tag}) {
			digests[tag] = h.Source
		}
	}
	return digests, err
}

// Saw notes what a destination has under an immutable tag.
func (c *Comparer) Saw(r message.Repository, i message.Image, at reference.Digest) {
	c.immutables.mu.Lock()
	defer c.immutables.mu.Unlock()
	tags := c.immutables.seen[r.Destination]
	set(&tags, DestinationTag(i), Held{From: r.Source, Source: i.Digest, At: at})
	set(&c.immutables.seen, r.Destination, tags)
}

// Seen returns what Saw has noted, by destination.
func (c *Comparer) Seen() map[reference.Repository]map[reference.Tag]Held {
	c.immutables.mu.Lock()
	defer c.immutables.mu.Unlock()
	return maps.Clone(c.immutables.seen)
}

// hold finds the immutable tags that destinations are known to have, and returns the other
// wishes. settle decides about the immutable ones among those, once they were looked for.
func (c *Comparer) hold(ctx context.Context, wishes []wish) (others []wish, settle func(), err error) {
	stale := map[*tagged]Held{}
	var immutable []wish
	for _, w := range wishes {
		if !c.IsImmutable(w.entry, w.image) {
			others = append(others, w)
			continue
		}
		held, err := c.heldAt(ctx, w.entry)
		if err != nil {
			return nil, nil, err
		}
		h, known := held[DestinationTag(w.image)]
		known = known && h.From == w.entry.Source // another source had the destination before
		if known && h.Fresh && h.Source == w.image.Digest {
			*w.found = tagged{digest: h.At, current: true, held: true}
			continue
		}
		if known {
			stale[w.found] = h
		}
		immutable, others = append(immutable, w), append(others, w)
	}
	return others, func() {
		for _, w := range immutable {
			h, was := stale[w.found]
			switch {
			case w.found.err != nil:
			case w.found.current:
				c.Saw(w.entry, w.image, w.found.digest)
			case !w.found.digest.IsZero():
				w.found.kept = true
			case was && h.Source != w.image.Digest: // the destination has lost it
				w.found.kept = true
			}
		}
	}, nil
}

// keep returns the job of an image whose tag is kept. at is what the destination has under
// it; zero if it has lost the tag.
func keep(r message.Repository, i message.Image, at reference.Digest) *Job {
	return &Job{
		Entry: r, Digest: i.Digest, MediaType: i.MediaType, Images: []message.Image{i}, Verdict: Keep, Why: kept(i, at),
		Had: map[reference.Tag]reference.Digest{DestinationTag(i): at},
	}
}

func kept(i message.Image, at reference.Digest) error {
	if at.IsZero() {
		return fmt.Errorf("%w: to %s; the destination has lost what was mirrored", ErrImmutable, i.Digest)
	}
	return fmt.Errorf("%w: the destination keeps %s, the source has %s", ErrImmutable, at, i.Digest)
}

// Keeps makes a job for one of the images of a job whose tag turned out to be taken.
func (j *Job) Keeps(i message.Image, at reference.Digest) *Job { return keep(j.Entry, i, at) }
