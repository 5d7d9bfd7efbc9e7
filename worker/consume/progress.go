package consume

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/meter"
)

const (
	// reportInterval is the shortest time between two reports of a chunk's progress.
	reportInterval = time.Second
	// copiesInterval is how often the bytes of running copies are reported, and the time
	// over which their rates are measured.
	copiesInterval = 5 * time.Second
)

// Image implements chunk.Observer.
func (d *delivery) Image(registry string, o run.Outcome) {
	d.consumer.metrics.Images(registry, string(o), 1)
}

// Progress implements chunk.Observer. It adds the pulls and bytes of earlier deliveries.
func (d *delivery) Progress(images run.Tally, pulls int, bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := run.Progress{State: run.Running, Images: images, Pulls: d.earlier.Pulls + pulls, Bytes: d.earlier.Bytes + bytes}
	if d.progress.State == run.Running {
		d.consumer.metrics.Spent(d.registry, p.Pulls-d.progress.Pulls, p.Bytes-d.progress.Bytes)
	}
	d.progress, d.changed = p, true
}

// Copying implements chunk.Observer.
func (d *delivery) Copying(image, destination string, moved *meter.Meter) (ended func()) {
	d.mu.Lock()
	d.changed = true
	d.mu.Unlock()
	return d.copies.begin(run.Copy{Image: image, Destination: destination, Worker: d.consumer.host, Since: d.consumer.now().UTC()}, moved)
}

// report stores the progress and the changes until ctx ends.
func (d *delivery) report(ctx context.Context) {
	ticker := time.NewTicker(reportInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		d.mu.Lock()
		moving := d.copies.any() && d.consumer.now().Sub(d.progress.Updated) >= copiesInterval
		due := (d.changed || moving) && d.progress.State == run.Running
		d.mu.Unlock()
		if due {
			if err := d.store(ctx); err != nil && ctx.Err() == nil {
				d.consumer.log.Warn("the status is late", "error", err)
			}
		}
		if err := d.noteChanges(ctx); err != nil && ctx.Err() == nil {
			d.consumer.log.Debug("changes are recorded late", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// store records the progress, which only people read.
func (d *delivery) store(ctx context.Context) error {
	if d.address.Token == "" {
		return nil
	}
	d.storing.Lock()
	defer d.storing.Unlock()
	d.mu.Lock()
	d.progress.Updated, d.changed = d.consumer.now().UTC(), false
	p := d.progress
	if p.State == run.Running {
		p.UnderWay = d.copies.list(p.Updated)
	} else {
		p.Mark = d.mark
	}
	d.mu.Unlock()
	if p.State != run.Running {
		return d.consumer.runs.Record(ctx, d.address, p) // the end is recorded in any case
	}
	if d.overtaken {
		return nil
	}
	revision, err := d.consumer.runs.Report(ctx, d.address, p, d.revision)
	if errors.Is(err, run.ErrOvertaken) {
		return d.overtake(ctx)
	}
	d.revision = revision
	return err
}

// overtake reads the progress that another worker has recorded of the message. If that worker has
// finished it, this one records nothing until it has finished, too.
func (d *delivery) overtake(ctx context.Context) error {
	recorded, revision, err := d.consumer.runs.Progress(ctx, d.address)
	if err != nil {
		return err
	}
	d.revision, d.overtaken = revision, recorded.Over()
	d.mu.Lock()
	d.changed = true
	d.mu.Unlock()
	return nil
}

// copies are the running copies of a chunk.
type copies struct {
	mu  sync.Mutex
	all []*copying
}

// copying is one running copy.
type copying struct {
	copy   run.Copy
	moved  *meter.Meter
	before int64 // bytes when the rate was last measured
	at     time.Time
}

// begin adds a copy until ended is called.
func (c *copies) begin(begun run.Copy, moved *meter.Meter) (ended func()) {
	one := &copying{copy: begun, moved: moved, at: begun.Since}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, one)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all = slices.DeleteFunc(c.all, func(other *copying) bool { return other == one })
	}
}

func (c *copies) any() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all) > 0
}

// list returns the copies with their bytes and rates at this time.
func (c *copies) list(now time.Time) []run.Copy {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []run.Copy
	for _, one := range c.all {
		one.copy.Bytes = one.moved.Bytes()
		if passed := now.Sub(one.at); passed >= copiesInterval {
			one.copy.Rate = int64(float64(one.copy.Bytes-one.before) / passed.Seconds())
			one.before, one.at = one.copy.Bytes, now
		}
		list = append(list, one.copy)
	}
	return list
}
