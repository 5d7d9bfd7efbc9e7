package consume

import (
	"context"
	"errors"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
)

// ended returns run.StateCancelled or run.StateSuperseded where the chunk's run has been
// ended and the chunk is to be dropped. A run of which nothing is known any more has not
// been: its work may then be done in vain, and is not lost.
func (d *delivery) ended(ctx context.Context, c message.Chunk) string {
	var r run.Run
	err := insist(ctx, d.log, patient(d.broker.Conn, func(ctx context.Context) (err error) {
		if r, err = d.runs.Get(ctx, c.Name, c.Run); errors.Is(err, run.ErrNotFound) {
			err = nil
		}
		return err
	}))
	if err != nil {
		d.log.Warn("whether the run was cancelled is not known", "run", c.Run, "error", err)
	}
	if c.Republished && r.Ended == run.StateSuperseded {
		return "" // it is no part of what the newer run does
	}
	return r.Ended
}

// drop ends a chunk without trying any of it. What was republished is a failure again.
func (d *delivery) drop(ctx context.Context, c message.Chunk, why string) error {
	if c.Republished {
		for _, r := range c.Repositories {
			if err := d.worker.Failures.Add(ctx, c.Name, failure.Of(c, r, r.Images, failure.ReasonCancelled)); err != nil {
				return err
			}
		}
	}
	// An earlier delivery may have come some way.
	images := d.earlier.Images
	images.Total = max(images.Total, c.Images())
	dropped := images.Total - images.Ended()
	images.Dropped += dropped
	d.log.Info("dropped a chunk", "run", c.Run, "chunk", c.Number, "registry", c.Registry, "images", dropped, "reason", "the run was "+why)
	d.metrics.Images(c.Registry, "dropped", dropped)
	d.Progress(images, 0, 0)
	return d.end(ctx, run.Dropped)
}
