package compare

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/listing"
)

// ErrUnlisted is returned to an Asker if the API that lists the tags of a destination cannot
// be used. The OCI API is asked instead, so it says nothing about the destination.
var ErrUnlisted = errors.New("the destination's own tag listing cannot be used")

// fewTags is how many tags are cheaper to look up one by one than to search for in pages of
// which most may be about other tags.
const fewTags = 2

// shelves are what the APIs of destinations have listed. They are kept for one comparison,
// because what is copied after it makes them wrong.
type shelves struct {
	mu    sync.Mutex
	known map[reference.Repository]*shelf
}

// shelf is what the API of a destination has listed. It is used by one goroutine at a time,
// because entries of one destination are compared together.
type shelf struct {
	pages  *listing.Pages // nil: there is no such API
	tags   map[reference.Tag]reference.Digest
	failed error // for which the API cannot be used; until it was warned of
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

// wish is an image whose tag is looked for at the destination.
type wish struct {
	entry message.Repository
	image message.Image
	found *tagged
}

// isListed reports whether the listing has the tag with the very digest that is wanted. It
// is believed about nothing else: it may lag, and leave tags out.
func (s *shelf) isListed(w wish) bool {
	listed := s.tags[DestinationTag(w.image)]
	return !listed.IsZero() && listed == w.image.Digest && Wanted(w.entry).All()
}

// search looks for images in the listing of their destination, and returns those that it did
// not find. It reads pages for as long as that takes fewer requests than asking for each tag.
func (c *Comparer) search(ctx context.Context, s *shelf, wishes []wish) []wish {
	wishes = s.take(wishes)
	for s.pages != nil && !s.pages.Ended() && listable(wishes) > fewTags {
		before := len(wishes)
		if err := c.turn(ctx, s, wishes[0].entry); err != nil {
			break
		}
		if wishes = s.take(wishes); before-len(wishes) < fewTags {
			break // the repository has much that is not wanted here
		}
	}
	return wishes
}

// listable counts the images that a listing can be believed about. Some platforms of an image
// have a digest of their own at the destination.
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

// warn logs why the API of a destination that has the repository cannot be used. One that
// lacks it refuses to list it, too.
func (s *shelf) warn() {
	if s.failed != nil {
		s.pages.Warn(s.failed)
		s.failed = nil
	}
}
