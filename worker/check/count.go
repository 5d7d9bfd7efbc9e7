package check

import (
	"context"
	"errors"
	"fmt"

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
	subjects map[reference.Digest]*compare.Job // that others may be about
}

// Copy counts the first tag as a copy. The other tags are then put on the copied image.
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

// Tag counts tags to be put on images that the destination has, or will have.
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

// Skip counts images without a wanted platform. If only the source's listing shows that, a worker
// pulls the index to be sure.
func (c counting) Skip(_ context.Context, j *compare.Job) error {
	c.row.Skipped += len(j.Images)
	c.row.PullsAtLeast = c.row.PullsAtLeast || j.Unwanted()
	return nil
}

// Keep counts immutable tags that the source has moved, and names them.
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
		c.row.Waits = append(c.row.Waits, Wait{Image: failure.Source(j.Entry, image.Tag), Digest: j.Digest, Until: j.Until})
	}
	return nil
}

// Failed adds images that could not be checked. If no tag of the destination could be looked up,
// that is one failure.
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

// missed adds a tag, or a whole entry, that could not be resolved.
func (c counting) missed(ctx context.Context, r message.Repository, tag reference.Tag, err error) {
	c.row.Failed = append(c.row.Failed, Failed{Image: failure.Source(r, tag), Reason: c.forecast.explain(ctx, r, err)})
}
