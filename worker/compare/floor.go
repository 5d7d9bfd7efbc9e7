package compare

import (
	"context"
	"fmt"
	"time"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// Listing is what a repository last listed, as far as it was listed.
type Listing struct {
	Tags int // without companions
	At   time.Time
}

// Few returns the failure of a repository that suddenly lists less than half of the tags of
// the last time, or none. It is nil if all is well, and a *registry.Error that wraps
// resolve.ErrFewTags otherwise. An entry with min_tags says itself how many there must be. The
// second error is Last's.
func (c *Comparer) Few(ctx context.Context, r message.Repository, found resolve.Result) (few, err error) {
	return Few(ctx, r, found, c.Last)
}

// Few is Comparer.Few with what was last known of the source.
func Few(ctx context.Context, r message.Repository, found resolve.Result, known func(context.Context, reference.Repository) (Listing, error)) (few, err error) {
	if !found.Whole || r.Selection != nil && r.Selection.MinTags > 0 {
		return nil, nil
	}
	last, err := known(ctx, r.Source)
	if err == nil && 2*found.Count < last.Tags {
		few = &registry.Error{Op: registry.OpTags, Repository: r.Source, Err: fmt.Errorf(
			"%w: the registry lists %d, and listed at least %d until %s; if that is right, set min_tags",
			resolve.ErrFewTags, found.Count, last.Tags, last.At.UTC().Format(time.DateOnly))}
	}
	return few, err
}
