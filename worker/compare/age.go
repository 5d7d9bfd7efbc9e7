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

// ErrYoung is the reason of Wait.
var ErrYoung = errors.New("the tag has not had its digest for long enough")

// Sighting is a resolve.Sighting.
type Sighting = resolve.Sighting

// Ages knows how long tags have had their digests.
type Ages interface {
	// Sighted returns what was noted of the tags of a source.
	Sighted(ctx context.Context, source reference.Repository) (map[reference.Tag]Sighting, error)
	// Released reports whether a digest of a source is mirrored whatever its age is.
	Released(ctx context.Context, source reference.Repository, digest reference.Digest) (bool, error)
}

// sightings are since when tags have their digests.
type sightings struct {
	mu    sync.Mutex
	known map[reference.Repository]map[reference.Tag]Sighting // by source
	new   map[reference.Repository]map[reference.Tag]Sighting // since the Comparer was made
}

// Sightings returns what was not known before, by source.
func (c *Comparer) Sightings() map[reference.Repository]map[reference.Tag]Sighting {
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

// Known returns what need not be asked for when an entry is resolved. The errors are Held's
// and those of Ages.
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

// remember reads what was noted of a source, once.
func (c *Comparer) remember(ctx context.Context, source reference.Repository) error {
	c.sightings.mu.Lock()
	defer c.sightings.mu.Unlock()
	if _, ok := c.sightings.known[source]; ok {
		return nil
	}
	known := map[reference.Tag]Sighting{}
	if c.Ages != nil {
		noted, err := c.Ages.Sighted(ctx, source)
		if err != nil {
			return err
		}
		maps.Copy(known, noted)
	}
	set(&c.sightings.known, source, known)
	return nil
}

// sight returns since when a tag has the digest of an image: by the listing of the source if
// that says so of the very digest, and otherwise since it was first seen. A time in the future
// is not believed.
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
	found := Sighting{Digest: i.Digest, Since: since.UTC().Truncate(time.Second), ByListing: byListing}
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

// waits returns until when an image is not mirrored, because its tag has not had its digest
// for long enough; zero if it is mirrored now. What the list pins by its digest, what was
// released, what is mirrored with an image that is old enough, and what is settled,
// because the destination has it or keeps another digest, does not wait.
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
	if c.Ages != nil {
		released, err := c.Ages.Released(ctx, r.Source, i.Digest)
		if err != nil || released {
			return time.Time{}, err
		}
	}
	return until, nil
}

// wait returns the job of an image that waits. at is what the destination has under its tag.
func wait(r message.Repository, i message.Image, at reference.Digest, until time.Time) *Job {
	return &Job{
		Entry: r, Digest: i.Digest, MediaType: i.MediaType, Images: []message.Image{i}, Verdict: Wait, Until: until,
		Why: fmt.Errorf("%w: it waits until %s", ErrYoung, until.UTC().Format(time.RFC3339)),
		Had: map[reference.Tag]reference.Digest{DestinationTag(i): at},
	}
}
