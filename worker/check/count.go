package check

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/outcome"
)

// counting counts the jobs of a repository by their verdicts. It implements compare.Cases.
type counting struct {
	forecast *forecast
	row      *Row
	subjects map[reference.Digest]*compare.Job // images that may have companions
}

// Copy counts the first tag as a copy, and the others as tags of the copied image.
func (c counting) Copy(ctx context.Context, j *compare.Job) error {
	if !c.verify(ctx, j) {
		return nil
	}
	c.row.Copy++
	c.row.Tag += len(j.Images) - 1
	c.row.cost(j)
	c.forecast.sample(j)
	return nil
}

// Tag counts new tags of images that the destination has, or will have.
func (c counting) Tag(ctx context.Context, j *compare.Job) error {
	if !c.verify(ctx, j) {
		return nil
	}
	c.row.Tag += len(j.Images)
	c.row.Unchanged += len(j.Current)
	return nil
}

// Unchanged counts tags that are up to date.
func (c counting) Unchanged(ctx context.Context, j *compare.Job) error {
	c.verify(ctx, j)
	c.row.Unchanged += len(j.Current)
	return nil
}

// Skip counts images without a wanted platform. A worker pulls the index if only the source's
// listing shows that.
func (c counting) Skip(_ context.Context, j *compare.Job) error {
	c.row.Skipped += len(j.Images)
	c.row.PullsAtLeast = c.row.PullsAtLeast || j.Unwanted()
	return nil
}

// Keep counts immutable tags that the source has moved, and warns of each.
func (c counting) Keep(_ context.Context, j *compare.Job) error {
	c.row.Kept += len(j.Images)
	for _, image := range j.Images {
		c.row.Warnings = append(c.row.Warnings, fmt.Sprintf("%s: %v", compare.DestinationTag(image), j.Why))
	}
	return nil
}

// Wait counts tags that are not old enough yet.
func (c counting) Wait(_ context.Context, j *compare.Job) error {
	c.row.Waiting += len(j.Images)
	for _, image := range j.Images {
		c.row.Waits = append(c.row.Waits, wait{Image: failure.Source(j.Entry, image.Tag), Digest: j.Digest, Until: j.Until})
	}
	return nil
}

// Failed adds images that could not be checked. A failure of the whole destination is added
// once.
func (c counting) Failed(_ context.Context, j *compare.Job) error {
	if whole := (*destinationError)(nil); errors.As(j.Why, &whole) {
		if !whole.reported {
			whole.reported = true
			c.fail(j.Entry.Destination.String(), j.Why)
		}
		return nil
	}
	for _, image := range j.Images {
		c.fail(failure.Source(j.Entry, image.Tag), j.Why)
	}
	return nil
}

func (c counting) fail(name string, err error) {
	c.row.Failed = append(c.row.Failed, Failed{Image: name, Reason: outcome.Reason(err)})
}

// missed adds a tag, or an entry, that could not be resolved.
func (c counting) missed(ctx context.Context, r message.Repository, tag reference.Tag, err error) {
	c.row.Failed = append(c.row.Failed, Failed{Image: failure.Source(r, tag), Reason: c.forecast.explain(ctx, r, err)})
}

// pulls returns how many manifests a copy pulls. The manifests of an index are known only if the
// source's listing shows its platforms; it never shows attestations.
func pulls(j *compare.Job) (n int, atLeast bool) {
	covered, _ := j.Covered()
	switch {
	case j.IsImage():
		return 1, false
	case types.MediaType(j.MediaType).IsIndex(), len(j.Listed.Platforms) > 1:
		return 1 + covered, true
	}
	return 1, true
}

// size returns how many bytes a copy transfers; 0 if the source's listing does not show it.
func size(j *compare.Job) int64 {
	if len(compare.Wanted(j.Entry).Platforms) == 0 || len(j.Listed.Platforms) == 0 {
		return j.Listed.Size
	}
	_, covered := j.Covered()
	return covered
}

// cost adds the pulls and bytes of a copy.
func (c *Counts) cost(j *compare.Job) {
	n, atLeast := pulls(j)
	c.Pulls += n
	c.PullsAtLeast = c.PullsAtLeast || atLeast
	if n := size(j); n > 0 {
		c.addBytes(n)
	} else {
		c.BytesAtLeast = true
	}
}

func (c *Counts) addBytes(n int64) {
	if c.Bytes == nil {
		c.Bytes = new(int64)
	}
	*c.Bytes += n
}
