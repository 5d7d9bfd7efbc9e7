package compare

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// ErrUnlisted is returned to an Asker if the API that lists the tags of a destination with
// their digests cannot be used. The destination itself may work: the OCI API is used instead.
var ErrUnlisted = errors.New("the destination's own tag listing cannot be used")

// fewTags is how many tags are looked up one by one, because pages of a listing may be mostly
// about other tags.
const fewTags = 2

// shelves are the listings of destinations. They serve one comparison, because copies make them
// wrong.
type shelves struct {
	mu    sync.Mutex
	known map[reference.Repository]*shelf
}

// shelf is the listing of a destination, as far as it was read. One goroutine at a time uses
// it, because entries of one destination are compared together.
type shelf struct {
	pages  *listing.Pages // nil if the registry has no API that lists digests
	tags   map[reference.Tag]reference.Digest
	failed error // the reason why the API cannot be used, until it was logged
}

// of returns the shelf of a destination.
func (s *shelves) of(c *Comparer, destination reference.Repository) *shelf {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[destination] == nil {
		found := &shelf{tags: map[reference.Tag]reference.Digest{}}
		if c.Mirror.Listing != nil {
			found.pages = c.Mirror.Listing.Destination(destination)
		}
		set(&s.known, destination, found)
	}
	return s.known[destination]
}

// wish is an image whose tag is to be found at the destination.
type wish struct {
	entry message.Repository
	image message.Image
	found *tagged
}

// isListed reports whether the listing has the tag with the wanted digest. Any other answer of
// the listing may be wrong: it may lag, and leave out tags.
func (s *shelf) isListed(w wish) bool {
	listed := s.tags[DestinationTag(w.image)]
	return !listed.IsZero() && listed == w.image.Digest && Wanted(w.entry).All()
}

// search looks for images in the listing of their destination, and returns those that it does
// not find. It reads further pages while that takes fewer requests than a look-up of each tag.
func (c *Comparer) search(ctx context.Context, s *shelf, wishes []wish) []wish {
	wishes = s.take(wishes)
	for s.pages != nil && !s.pages.Ended() && listable(wishes) > fewTags {
		before := len(wishes)
		if err := c.turn(ctx, s, wishes[0].entry); err != nil {
			break
		}
		if wishes = s.take(wishes); before-len(wishes) < fewTags {
			break // most tags of the repository are not wanted here
		}
	}
	return wishes
}

// listable counts the images that a listing can show as up to date. An index of some platforms
// has another digest at the destination.
func listable(wishes []wish) (n int) {
	for _, w := range wishes {
		if Wanted(w.entry).All() {
			n++
		}
	}
	return n
}

// take marks the images that are listed, and returns the others.
func (s *shelf) take(wishes []wish) []wish {
	var left []wish
	for _, w := range wishes {
		if s.isListed(w) {
			*w.found = tagged{digest: w.image.Digest, current: true}
		} else {
			left = append(left, w)
		}
	}
	return left
}

// turn reads the next page of a listing.
func (c *Comparer) turn(ctx context.Context, s *shelf, entry message.Repository) error {
	return c.Asker.Ask(ctx, entry, entry.Destination, func() error {
		tags, err := s.pages.Next(ctx)
		if err != nil && !listing.Passes(err) {
			s.failed = err
			return fmt.Errorf("%w: %v", ErrUnlisted, err)
		}
		for _, t := range tags {
			s.tags[t.Name] = t.Digest
		}
		return err
	})
}

// warn logs why the API of a destination cannot be used. It is called if the destination has
// the repository; a registry also refuses to list a repository that does not exist.
func (s *shelf) warn() {
	if s.failed != nil {
		s.pages.Warn(s.failed)
		s.failed = nil
	}
}

// Listing is the number of tags that a repository last listed.
type Listing struct {
	Tags int // without companions; at least so many if it was not listed to the end
	At   time.Time
}

// Few returns an error if a repository lists less than half of the tags of the last time: a
// *registry.Error that wraps resolve.ErrFewTags. It returns nil for an entry with min_tags,
// which sets the minimum itself, and for one that was not listed to the end.
func Few(r message.Repository, found resolve.Result, last Listing) error {
	if !found.Whole || r.Selection != nil && r.Selection.MinTags > 0 || 2*found.Count >= last.Tags {
		return nil
	}
	return &registry.Error{Op: registry.OpTags, Repository: r.Source, Err: fmt.Errorf(
		"%w: the registry lists %d, and listed at least %d until %s; if that is right, set min_tags",
		resolve.ErrFewTags, found.Count, last.Tags, last.At.UTC().Format(time.DateOnly))}
}
