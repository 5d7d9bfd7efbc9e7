// Package listing lists what tags a repository has, with what the upstream
// tells about them. quay.io and Docker Hub tell the digests of 100 tags in one
// answer; every other registry tells names only.
package listing

import (
	"context"
	"iter"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
)

// Tag is a tag as a listing shows it. Fields the upstream does not tell are
// zero. All of it is a hint: the tag may have moved since.
type Tag struct {
	Name      reference.Tag
	Digest    reference.Digest // of what the tag names; where it is empty, a HEAD tells it
	MediaType string           // of what the tag names
	Updated   time.Time        // when the tag was last pushed
	Size      int64            // bytes of all layers below it; of shared ones, each time
	Platforms []Platform       // each once; empty = not told
}

// Platform is one of those below a tag.
type Platform struct {
	Name string // os/architecture[/variant]
	Size int64  // bytes of its layers
}

// windows is the operating system that mirrors of Linux images leave out.
const windows = "windows/"

// WindowsOnly says whether the upstream tells of platforms, all of them Windows.
func (t Tag) WindowsOnly() bool {
	for _, platform := range t.Platforms {
		if !strings.HasPrefix(platform.Name, windows) {
			return false
		}
	}
	return len(t.Platforms) > 0
}

// Lister lists the tags of a repository.
type Lister interface {
	// Tags yields the tags page by page, each name once; stopping the iteration
	// stops the listing. A *registry.TagError is about one name that no tag can have,
	// and the listing goes on; any other error is the last item, and is a
	// *registry.Error. A tag that is pushed or deleted meanwhile can keep itself or
	// another one out until the next listing.
	Tags(ctx context.Context, repository reference.Repository) iter.Seq2[Tag, error]

	// NewestFirst reports whether the tags that have an Updated come in its
	// order, the most recent first. One without ends that order: what comes after
	// it may be more recent than what came before.
	NewestFirst() bool
}

// names are the names seen so far in one listing. They are all it remembers.
type names map[reference.Tag]struct{}

// add is false for a name that was seen before.
func (n names) add(name reference.Tag) bool {
	if _, seen := n[name]; seen {
		return false
	}
	n[name] = struct{}{}
	return true
}
