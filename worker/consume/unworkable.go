package consume

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	// headerFirstSeen is when a message of a newer version was first received.
	headerFirstSeen = "Mirror-First-Seen"
	// headerBroker is the prefix of the broker's own headers.
	headerBroker = "Nats-"
	// newerRetry is how long such a message waits each time until it is delivered again.
	newerRetry = time.Minute
	// newerLimit is how long it waits in all. A rolling update is over by then.
	newerLimit = 24 * time.Hour
	// unreadableName is the mirror name for an unreadable message without one in its subject.
	// Users look at the default name first.
	unreadableName = "default"
)

// errPoison is recorded for the images of a message whose deliveries had no outcome.
var errPoison = fmt.Errorf("%d deliveries without an outcome: the worker died, or lost the broker, each time it had this chunk", maxDeliveries)

// run returns the run of the message. A run that cannot be read counts as not ended, so that none
// of its images is lost.
func (d *delivery) run(ctx context.Context) (r run.Run) {
	err := d.optional(ctx, func(ctx context.Context) (err error) {
		if r, err = d.consumer.runs.Get(ctx, d.address.Name, d.address.Run); errors.Is(err, run.ErrNotFound) {
			err = nil
		}
		return err
	})
	if err != nil {
		d.consumer.log.Warn("cannot read whether the run was cancelled", "run", d.address.Run, "error", err)
	}
	return r
}

// republished reports whether the chunk comes from a republish, which newer plans do not replace.
// An unreadable message is republished unchanged, so the run's kind counts, too.
func republished(r run.Run, c message.Chunk) bool {
	return c.Republished || r.Kind == run.KindRepublish
}

// drop ends a chunk of an ended run without trying any image. Images that were republished
// become failures again.
func (d *delivery) drop(ctx context.Context, r run.Run, c message.Chunk) error {
	if republished(r, c) {
		if _, err := d.record(ctx, c, failure.ReasonCancelled); err != nil {
			return err
		}
	}
	images := d.earlier.Images // of deliveries before the run ended
	images.Total = max(images.Total, c.Images())
	dropped := images.Total - images.Ended()
	images.Dropped += dropped
	d.consumer.log.Info("dropped a chunk", "run", r.ID, "chunk", c.Number, "registry", c.Registry, "images", dropped, "reason", "the run was "+r.Ended)
	d.consumer.metrics.Images(c.Registry, "dropped", dropped)
	d.Progress(images, 0, 0)
	return d.end(ctx, run.Dropped)
}

// record records all images of the chunk as failed for a reason, and returns how many.
func (d *delivery) record(ctx context.Context, c message.Chunk, reason string) (images int, err error) {
	for _, r := range c.Repositories {
		record := failure.Of(c, r, r.Images, reason)
		if err := d.consumer.failures.Add(ctx, c.Name, record); err != nil {
			return images, err
		}
		images += len(record.Images)
	}
	return images, nil
}

// poison records all images of a chunk whose deliveries had no outcome as failed.
func (d *delivery) poison(ctx context.Context, c message.Chunk) error {
	d.consumer.log.Error("recorded a chunk as failed", "run", c.Run, "chunk", c.Number, "deliveries", d.number-1)
	failed, err := d.record(ctx, c, errPoison.Error())
	if err != nil {
		return err
	}
	return d.endFailed(ctx, c.Registry, failed)
}

// endFailed ends the message after images of a registry were recorded as failed.
func (d *delivery) endFailed(ctx context.Context, registry string, images int) error {
	d.consumer.metrics.Images(registry, "failed", images)
	d.Progress(run.Tally{Total: images, Failed: images}, 0, 0)
	return d.end(ctx, run.Done)
}

// postpone requeues a message of a newer version unchanged, for a newer worker.
func (d *delivery) postpone(ctx context.Context, cause error) error {
	first, err := time.Parse(time.RFC3339, d.msg.Headers().Get(headerFirstSeen))
	if err != nil {
		first = d.consumer.now()
	}
	if d.consumer.now().Sub(first) > newerLimit {
		return d.reject(ctx, fmt.Errorf("%w: no worker of that version came in %s", cause, newerLimit))
	}
	d.consumer.log.Warn("left a chunk to a newer worker", "subject", d.msg.Subject(), "reason", cause)
	header := nats.Header{}
	for k, v := range d.msg.Headers() {
		if !strings.HasPrefix(k, headerBroker) {
			header[k] = v
		}
	}
	header.Set(headerFirstSeen, first.UTC().Format(time.RFC3339))
	if err := d.snooze(ctx, newerRetry, run.Progress{}, header, d.msg.Data()); err != nil {
		return err
	}
	return d.end(ctx, run.Done)
}

// reject records an unreadable message as a failure, with its bytes.
func (d *delivery) reject(ctx context.Context, cause error) error {
	name, registry := d.address.Name, d.address.Registry
	if !subject.ValidName(name) {
		name, registry = unreadableName, failure.UnknownRegistry
	}
	source := failure.MessageName(d.sequence, d.msg.Subject())
	d.consumer.log.Error("cannot read a message", "message", source, "error", cause)
	reason, data := cause.Error(), append([]byte{}, d.msg.Data()...) // never nil, which means no message
	if len(data) > message.MaxSize {
		// A record must fit into a message itself.
		reason += fmt.Sprintf("; only the first %d of its %d bytes are kept", message.MaxSize, len(data))
		data = data[:message.MaxSize]
	}
	err := d.consumer.failures.Add(ctx, name, failure.Record{
		Repository: source,
		Registry:   registry,
		Run:        d.address.Run,
		Message:    data,
		Images:     []failure.Image{{Source: source, Attempts: int(d.number), Reason: reason}},
	})
	if err != nil {
		return err
	}
	return d.endFailed(ctx, failure.UnknownRegistry, 1)
}
