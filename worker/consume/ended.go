package consume

import (
	"context"
	"errors"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
)

// run returns the run that delivered the message. If nothing is known of the run, it counts
// as not ended: work may then be done in vain, but none is lost.
func (d *delivery) run(ctx context.Context) (r run.Run) {
	err := retry(ctx, d.log, optional(d.broker.Conn, func(ctx context.Context) (err error) {
		if r, err = d.runs.Get(ctx, d.address.Name, d.address.Run); errors.Is(err, run.ErrNotFound) {
			err = nil
		}
		return err
	}))
	if err != nil {
		d.log.Warn("cannot read whether the run was cancelled", "run", d.address.Run, "error", err)
	}
	return r
}

// republished reports whether a republish delivered the chunk, so that no newer plan takes
// its place. A message that was recorded because no worker could read it is republished
// unchanged, so only its run shows that it was republished.
func republished(r run.Run, c message.Chunk) bool {
	return c.Republished || r.Kind == run.KindRepublish
}

// drop ends a chunk of a run that was ended, without trying any of its images. Images that
// were republished become failures again.
func (d *delivery) drop(ctx context.Context, r run.Run, c message.Chunk) error {
	if republished(r, c) {
		for _, repository := range c.Repositories {
			if err := d.failures.Add(ctx, c.Name, failure.Of(c, repository, repository.Images, failure.ReasonCancelled)); err != nil {
				return err
			}
		}
	}
	// An earlier delivery may have come some way.
	images := d.earlier.Images
	images.Total = max(images.Total, c.Images())
	dropped := images.Total - images.Ended()
	images.Dropped += dropped
	d.log.Info("dropped a chunk", "run", r.ID, "chunk", c.Number, "registry", c.Registry, "images", dropped, "reason", "the run was "+r.Ended)
	d.metrics.Images(c.Registry, "dropped", dropped)
	d.Progress(images, 0, 0)
	return d.end(ctx, run.Dropped)
}
