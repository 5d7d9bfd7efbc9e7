package consume

import (
	"context"
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
	// headerBroker is the prefix of headers that are the broker's.
	headerBroker = "Nats-"
	// newerRetry is how long such a message waits for a worker that understands it,
	// and newerLimit how long it does so in all: a rolling update is over by then.
	newerRetry = time.Minute
	newerLimit = 24 * time.Hour
	// unreadableName is the mirror name that unreadable messages on a subject without
	// one are recorded under: the default one, where people look first.
	unreadableName = "default"
)

// errPoison is the reason recorded for a message that never had an outcome.
var errPoison = fmt.Errorf("%d deliveries without an outcome: the worker died, or lost the broker, each time it had this chunk", maxDeliveries)

// poison records every image of the chunk as failed.
func (d *delivery) poison(ctx context.Context, c message.Chunk) error {
	d.log.Error("recorded a chunk as failed", "run", c.Run, "chunk", c.Number, "deliveries", d.number-1)
	failed := 0
	for _, r := range c.Repositories {
		record := failure.Of(c, r, r.Images, errPoison.Error())
		if err := d.failures.Add(ctx, c.Name, record); err != nil {
			return err
		}
		failed += len(record.Images)
	}
	return d.gaveUp(ctx, c.Registry, failed)
}

// gaveUp ends the message with images of a registry that were recorded as failed.
func (d *delivery) gaveUp(ctx context.Context, registry string, images int) error {
	d.metrics.Images(registry, "failed", images)
	d.Progress(run.Tally{Total: images, Failed: images}, 0, 0)
	return d.end(ctx, run.Done)
}

// postpone gives a message of a newer version to a later worker, as it is.
func (d *delivery) postpone(ctx context.Context, cause error) error {
	first, err := time.Parse(time.RFC3339, d.msg.Headers().Get(headerFirstSeen))
	if err != nil {
		first = d.now()
	}
	if d.now().Sub(first) > newerLimit {
		return d.reject(ctx, fmt.Errorf("%w: no worker of that version came in %s", cause, newerLimit))
	}
	d.log.Warn("left a chunk to a newer worker", "subject", d.msg.Subject(), "reason", cause)
	a := d.address
	a.Token = d.nextToken(0)
	header := nats.Header{}
	for k, v := range d.msg.Headers() {
		if !strings.HasPrefix(k, headerBroker) {
			header[k] = v
		}
	}
	header.Set(headerFirstSeen, first.UTC().Format(time.RFC3339))
	d.note(ctx, a, run.Progress{State: run.Snoozed, Due: d.now().Add(newerRetry).UTC(), Updated: d.now().UTC()})
	if err := d.publish(ctx, a, newerRetry, header, d.msg.Data()); err != nil {
		return err
	}
	return d.end(ctx, run.Done)
}

// reject records a message that cannot be read, with its bytes.
func (d *delivery) reject(ctx context.Context, cause error) error {
	name, registry := d.address.Name, d.address.Registry
	if !subject.ValidName(name) {
		name, registry = unreadableName, failure.UnknownRegistry
	}
	source := failure.MessageName(d.sequence, d.msg.Subject())
	d.log.Error("cannot read a message", "message", source, "error", cause)
	reason, data := cause.Error(), append([]byte{}, d.msg.Data()...) // never nil, which means no message
	if len(data) > message.MaxSize {
		// None of ours is as large, and a record must fit into a message itself.
		reason += fmt.Sprintf("; only the first %d of its %d bytes are kept", message.MaxSize, len(data))
		data = data[:message.MaxSize]
	}
	err := d.failures.Add(ctx, name, failure.Record{
		Repository: source,
		Registry:   registry,
		Run:        d.address.Run,
		Message:    data,
		Images:     []failure.Image{{Source: source, Attempts: int(d.number), Reason: reason}},
	})
	if err != nil {
		return err
	}
	return d.gaveUp(ctx, failure.UnknownRegistry, 1)
}
