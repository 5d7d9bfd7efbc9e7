package consume

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/chunk"
)

// leave publishes the parts of the chunk, and what is left of it, before the message is
// acknowledged. If another worker has acknowledged the message meanwhile, that worker has
// published them, and a run that is over must not begin again.
func (d *delivery) leave(ctx context.Context, c message.Chunk, result chunk.Result) error {
	if len(result.Parts) == 0 && len(result.Left) == 0 {
		return nil
	}
	acknowledged, err := retried(ctx, d.consumer.log, d.acknowledged)
	if err != nil || acknowledged {
		return err
	}
	for _, part := range result.Parts {
		if err := d.remainder(ctx, c, part, 0, ""); err != nil {
			return err
		}
	}
	if len(result.Left) == 0 {
		return nil
	}
	return d.remainder(ctx, c, result.Left, result.After, result.Away)
}

// remainder publishes repositories of the chunk as messages that are due after a while. away
// is the registry that they wait for, if it is away.
func (d *delivery) remainder(ctx context.Context, c message.Chunk, left []message.Repository, after time.Duration, away string) error {
	c.Repositories = left
	pieces, err := message.Split(c)
	if err != nil {
		return err
	}
	for _, piece := range pieces {
		data, err := piece.Encode()
		if err != nil {
			return err
		}
		progress := run.Progress{Away: away}
		for _, r := range piece.Repositories {
			progress.Images.Total += len(r.Images)
		}
		if err := d.snooze(ctx, after, progress, nil, data); err != nil {
			return err
		}
	}
	return nil
}

// snooze records and publishes a message in place of the one that was delivered. It is
// recorded first, so that its loss is noticed.
func (d *delivery) snooze(ctx context.Context, after time.Duration, p run.Progress, header nats.Header, data []byte) error {
	d.pieces++
	a := d.address.Remainder(d.sequence, d.mark, d.pieces)
	now := d.consumer.now()
	p.State, p.Due, p.Updated = run.Snoozed, now.Add(after).UTC(), now.UTC()
	err := d.optional(ctx, func(ctx context.Context) error { return d.consumer.runs.Record(ctx, a, p) })
	if err != nil {
		d.consumer.log.Warn("the status will be incomplete", "error", err)
	}
	return d.publish(ctx, a, after, header, data)
}

// newMark returns the mark of a delivery, of 40 random bits, five to a letter. The number of the
// delivery is no mark, because a consumer that was created again counts from 1.
func newMark() string { return strings.ToLower(rand.Text()[:8]) }

// publish stores a message for the address that is due after a while, or now.
func (d *delivery) publish(ctx context.Context, a subject.Address, after time.Duration, header nats.Header, data []byte) error {
	m := nats.NewMsg(a.Under(subject.Chunk))
	m.Data = data
	if after > 0 {
		m = broker.Scheduled(subject.Later, a, d.consumer.now().Add(after), data)
	}
	for k, v := range header {
		m.Header[k] = v
	}
	// If only the broker's answer was lost, the next try finds the message.
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
	return retry(ctx, d.consumer.log, func(ctx context.Context) error {
		_, err := d.consumer.broker.Publish(ctx, m)
		if !errors.Is(err, broker.ErrConflict) {
			return err
		}
		if _, err = d.consumer.broker.Stream.GetLastMsgForSubject(ctx, m.Subject); err != nil {
			// The message is not stored yet, or was already delivered.
			return fmt.Errorf("publishing %s: it is not in the stream yet: %v", m.Subject, err)
		}
		return nil
	})
}
