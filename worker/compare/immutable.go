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

// errImmutable is Job.Why of the verdict Keep.
var errImmutable = errors.New("the source has moved an immutable tag")

// Held is the state of an immutable tag at a destination.
type Held struct {
	From   reference.Repository // the source
	Source reference.Digest     // the digest at the source that was mirrored
	At     reference.Digest     // its digest at the destination
	// Fresh reports whether the digest need not be looked up while the destination lists the
	// tag.
	Fresh bool
}

// Backup is another tag for a digest that a tag had before.
type Backup struct {
	Name   reference.Tag    `json:"tag"`
	Digest reference.Digest `json:"digest"`
}

// immutables are the immutable tags of destinations.
type immutables struct {
	mu       sync.Mutex
	matchers map[Entry]*selection.Matcher
	known    map[reference.Repository]func() (map[reference.Tag]Held, error) // from Notes, by destination
	seen     map[reference.Repository]map[reference.Tag]Held                 // by this Comparer
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
			return true // the planner has checked it; if in doubt, nothing is replaced
		}
		set(&c.immutables.matchers, EntryOf(r), m)
	}
	return m.Immutable(DestinationTag(i).String())
}

// heldAt returns the noted immutable tags of an entry's destination. It reads them once, and
// lists the destination's tags, because the destination may have lost some.
func (c *Comparer) heldAt(ctx context.Context, r message.Repository) (map[reference.Tag]Held, error) {
	c.immutables.mu.Lock()
	known := c.immutables.known[r.Destination]
	if known == nil {
		known = sync.OnceValues(func() (map[reference.Tag]Held, error) {
			held, err := c.Notes.Held(ctx, r.Destination)
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

// refresh clears Fresh of the tags that the destination does not list, or of all tags if it
// cannot be listed. They are looked up then.
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

// fixed returns the digests of immutable tags that the destination has. They need not be looked
// up at the source. The error is that of Notes.
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

// Saw notes the digest that a destination has under an immutable tag.
func (c *Comparer) Saw(r message.Repository, i message.Image, at reference.Digest) {
	c.immutables.mu.Lock()
	defer c.immutables.mu.Unlock()
	tags := c.immutables.seen[r.Destination]
	set(&tags, DestinationTag(i), Held{From: r.Source, Source: i.Digest, At: at})
	set(&c.immutables.seen, r.Destination, tags)
}

// Seen returns the immutable tags that Saw has noted, by destination.
func (c *Comparer) Seen() map[reference.Repository]map[reference.Tag]Held {
	c.immutables.mu.Lock()
	defer c.immutables.mu.Unlock()
	return maps.Clone(c.immutables.seen)
}

// hold answers wishes for immutable tags that the destination is known to have, and returns the
// others. When those have been looked up, settle decides which immutable tags are kept.
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
		known = known && h.From == w.entry.Source // the destination may have had another source
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

// keep returns the job of an image whose immutable tag is kept. at is the digest that the
// destination has under the tag; zero if it has lost the tag.
func keep(r message.Repository, i message.Image, at reference.Digest) *Job {
	why := fmt.Errorf("%w: the destination keeps %s, the source has %s", errImmutable, at, i.Digest)
	if at.IsZero() {
		why = fmt.Errorf("%w: to %s; the destination has lost the mirrored image", errImmutable, i.Digest)
	}
	return jobOf(r, i, at, Keep, why)
}

// Keeps returns a job that keeps the tag of one of the job's images, because another digest has
// turned out to be under it.
func (j *Job) Keeps(i message.Image, at reference.Digest) *Job { return keep(j.Entry, i, at) }
