package compare

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// errYoung is Job.Why of the verdict Wait.
var errYoung = errors.New("the tag has not had its digest for long enough")

// sightings hold since when the tags of sources have their digests.
type sightings struct {
	mu    sync.Mutex
	known map[reference.Repository]map[reference.Tag]resolve.Sighting // by source
	new   map[reference.Repository]map[reference.Tag]resolve.Sighting // added by this Comparer
}

// Sightings returns the sightings that the notes do not have yet, by source.
func (c *Comparer) Sightings() map[reference.Repository]map[reference.Tag]resolve.Sighting {
	c.sightings.mu.Lock()
	defer c.sightings.mu.Unlock()
	return maps.Clone(c.sightings.new)
}

func (c *Comparer) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

// Known returns the knowledge about the tags of an entry before it is resolved. The errors are
// those of Notes.
func (c *Comparer) Known(ctx context.Context, r message.Repository) (known resolve.Known, err error) {
	if r.Selection == nil {
		return known, nil
	}
	if known.Digests, err = c.fixed(ctx, r); err != nil || r.Selection.NewerThan == 0 && r.Selection.MinAge == 0 {
		return known, err
	}
	if err := c.remember(ctx, r.Source); err != nil {
		return known, err
	}
	c.sightings.mu.Lock()
	defer c.sightings.mu.Unlock()
	known.Sighted = maps.Clone(c.sightings.known[r.Source])
	return known, nil
}

// remember reads the noted sightings of a source once.
func (c *Comparer) remember(ctx context.Context, source reference.Repository) error {
	c.sightings.mu.Lock()
	defer c.sightings.mu.Unlock()
	if _, ok := c.sightings.known[source]; ok {
		return nil
	}
	noted, err := c.Notes.Sighted(ctx, source)
	if err != nil {
		return err
	}
	set(&c.sightings.known, source, maps.Clone(noted))
	return nil
}

// sight returns since when a tag has the digest of an image: the time in the source's listing
// if that has the same digest, and otherwise the time at which a worker first saw it. It
// ignores times in the future.
func (s *sightings) sight(r message.Repository, i message.Image, listed resolve.Listed, now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.known[r.Source][i.Tag]
	since, byListing := now, false
	switch {
	case listed.Digest == i.Digest && !listed.Updated.IsZero() && !listed.Updated.After(now):
		since, byListing = listed.Updated, true
	case ok && known.Digest == i.Digest:
		since = known.Since
	}
	found := resolve.Sighting{Digest: i.Digest, Since: since.UTC().Truncate(time.Second), ByListing: byListing}
	if found.Digest != known.Digest || !found.Since.Equal(known.Since) {
		of := s.known[r.Source]
		set(&of, i.Tag, found)
		set(&s.known, r.Source, of)
		added := s.new[r.Source]
		set(&added, i.Tag, found)
		set(&s.new, r.Source, added)
	}
	return since
}

// waits returns the time until which an image is not mirrored because its tag has not had its
// digest for the minimum age; zero if it is mirrored now. An image does not wait if
// the list pins its digest, its digest was released, or it is a companion of an image that does
// not wait; nor if it is settled: the destination has the digest, or keeps an immutable tag.
func (c *Comparer) waits(ctx context.Context, r message.Repository, i message.Image, settled bool) (time.Time, error) {
	if r.Selection == nil || r.Selection.MinAge == 0 || !r.Digest.IsZero() || i.Digest.IsZero() {
		return time.Time{}, nil
	}
	listed, bearer := c.origin(r, i)
	if bearer != nil {
		return time.Time{}, nil
	}
	if err := c.remember(ctx, r.Source); err != nil {
		return time.Time{}, err
	}
	now := c.now()
	until := c.sightings.sight(r, i, listed, now).Add(time.Duration(r.Selection.MinAge))
	if settled || !until.After(now) {
		return time.Time{}, nil
	}
	if released, err := c.Notes.Released(ctx, r.Source, i.Digest); err != nil || released {
		return time.Time{}, err
	}
	return until, nil
}

// wait returns the job of an image that waits. at is the digest that the destination has under
// its tag.
func wait(r message.Repository, i message.Image, at reference.Digest, until time.Time) *Job {
	j := jobOf(r, i, at, Wait, fmt.Errorf("%w: it waits until %s", errYoung, until.UTC().Format(time.RFC3339)))
	j.Until = until
	return j
}
