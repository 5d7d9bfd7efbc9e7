package consume

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/change"
)

// changes are those of a delivery that are not recorded yet: copies do not wait for the
// broker.
type changes struct {
	recording sync.Mutex // held while some are recorded

	mu      sync.Mutex
	pending []change.Change
}

// Changed implements chunk.Observer. It logs the changes; the next report records them with
// the run. A worker that is killed before leaves them out.
func (d *delivery) Changed(changes []change.Change) {
	for _, c := range changes {
		text := "mirrored a new tag"
		switch c.Kind() {
		case change.Vanished:
			continue // logged with the reason
		case change.Moved:
			text = "mirrored a tag that has moved"
		}
		d.consumer.log.Info(text, "image", c.Image(), "destination", c.Destination.String(), "run", d.address.Run,
			"from", c.From.String(), "to", c.To.String(), "bytes", c.Bytes, "took", c.Took.Round(time.Millisecond))
	}
	d.changes.mu.Lock()
	defer d.changes.mu.Unlock()
	d.changes.pending = append(d.changes.pending, changes...)
}

// noteChanges stores the changes that are not recorded yet.
func (d *delivery) noteChanges(ctx context.Context) error {
	d.changes.recording.Lock()
	defer d.changes.recording.Unlock()
	d.changes.mu.Lock()
	pending := d.changes.pending
	d.changes.pending = nil
	d.changes.mu.Unlock()
	if len(pending) == 0 {
		return nil
	}
	err := d.consumer.changes.Add(ctx, d.address.Name, d.address.Run, pending...)
	if err != nil { // some may be recorded twice then, which List makes one of
		d.changes.mu.Lock()
		d.changes.pending = slices.Concat(pending, d.changes.pending)
		d.changes.mu.Unlock()
	}
	return err
}
