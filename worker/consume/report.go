package consume

import (
	"context"
	"errors"
	"time"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/meter"
)

// reportInterval bounds how often the progress of a chunk is stored.
const reportInterval = time.Second

// Image implements chunk.Observer.
func (d *delivery) Image(registry string, o run.Outcome) { d.metrics.Images(registry, string(o), 1) }

// Progress implements chunk.Observer. Pulls of earlier deliveries were made, too.
func (d *delivery) Progress(images run.Tally, pulls int, bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := run.Progress{State: run.Running, Images: images, Pulls: d.earlier.Pulls + pulls, Bytes: d.earlier.Bytes + bytes}
	if d.progress.State == run.Running {
		d.metrics.Spent(d.registry, p.Pulls-d.progress.Pulls, p.Bytes-d.progress.Bytes)
	}
	d.progress, d.changed = p, true
}

// Copying implements chunk.Observer.
func (d *delivery) Copying(image, destination string, moved *meter.Meter) (ended func()) {
	d.mu.Lock()
	d.changed = true
	d.mu.Unlock()
	return d.copies.begin(run.Copy{Image: image, Destination: destination, Worker: d.host, Since: d.now().UTC()}, moved)
}

// report stores the progress while the chunk is worked on.
func (d *delivery) report(ctx context.Context) {
	ticker := time.NewTicker(reportInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		d.mu.Lock()
		moving := d.copies.any() && d.now().Sub(d.progress.Updated) >= copiesInterval
		due := (d.changed || moving) && d.progress.State == run.Running
		d.mu.Unlock()
		if due {
			if err := d.store(ctx); err != nil && ctx.Err() == nil {
				d.log.Warn("the status is late", "error", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// store records the progress. Nothing depends on it but what people see.
func (d *delivery) store(ctx context.Context) error {
	if d.address.Token == "" {
		return nil
	}
	d.storing.Lock()
	defer d.storing.Unlock()
	d.mu.Lock()
	d.progress.Updated, d.changed = d.now().UTC(), false
	p := d.progress
	if p.State == run.Running {
		p.UnderWay = d.copies.list(p.Updated)
	}
	d.mu.Unlock()
	if p.State != run.Running {
		return d.runs.Record(ctx, d.address, p) // the last word
	}
	if d.overtaken {
		return nil
	}
	revision, err := d.runs.Report(ctx, d.address, p, d.revision)
	if errors.Is(err, run.ErrOvertaken) {
		return d.overtake(ctx)
	}
	d.revision = revision
	return err
}

// overtake reads what another worker has recorded of the message. If that one is done with
// it, this worker records nothing more until it is done itself.
func (d *delivery) overtake(ctx context.Context) error {
	recorded, revision, err := d.runs.Progress(ctx, d.address)
	if err != nil {
		return err
	}
	d.revision, d.overtaken = revision, recorded.Over()
	d.mu.Lock()
	d.changed = true
	d.mu.Unlock()
	return nil
}
