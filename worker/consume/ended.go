package consume

import (
	"context"
	"errors"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
)

// run returns the run that the message was delivered by. A run of which nothing is known
// any more has not been ended: its work may then be done in vain, and is not lost.
func (d *delivery) run(ctx context.Context) (r run.Run) {
	err := insist(ctx, d.log, patient(d.broker.Conn, func(ctx context.Context) (err error) {
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

// republished reports whether the chunk was delivered again by hand, and so is no part of
// what a newer run does. One that was recorded because no worker could read it is
// republished as it came, and says nothing of it itself.
func republished(r run.Run, c message.Chunk) bool {
	return c.Republished || r.Kind == run.KindRepublish
}

// drop ends a chunk of a run that was ended, without trying any of it. What was
// republished is a failure again.
func (d *delivery) drop(ctx context.Context, r run.Run, c message.Chunk) error {
	if republished(r, c) {
		for _, repository := range c.Repositories {
			if err := d.worker.Failures.Add(ctx, c.Name, failure.Of(c, repository, repository.Images, failure.ReasonCancelled)); err != nil {
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
