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
)

// remainder publishes what is left, or a part, before the message is acknowledged:
// due now, or after a while, which may be for a registry that is away.
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
		a := d.address
		a.Token = d.nextToken(d.pieces)
		d.pieces++
		progress := run.Progress{State: run.Snoozed, Due: d.now().Add(after).UTC(), Away: away, Updated: d.now().UTC()}
		for _, r := range piece.Repositories {
			progress.Images.Total += len(r.Images)
		}
		d.note(ctx, a, progress)
		if err := d.publish(ctx, a, after, nil, data); err != nil {
			return err
		}
	}
	return nil
}

// note records a message before it is published, so that its loss is noticed.
func (d *delivery) note(ctx context.Context, a subject.Address, p run.Progress) {
	record := func(ctx context.Context) error { return d.runs.Record(ctx, a, p) }
	if err := retry(ctx, d.log, optional(d.broker.Conn, record)); err != nil {
		d.log.Warn("the status will be incomplete", "error", err)
	}
}

// nextToken names the i-th remainder of this delivery. No two deliveries of a message
// share a name: a schedule's subject must never be written twice, and what another
// delivery has left may be something else. Deliveries are counted from 1 again where
// their consumer was deleted, so the names have something random.
func (d *delivery) nextToken(i int) string {
	if d.mark == "" {
		d.mark = strings.ToLower(rand.Text()[:markLength])
	}
	token := fmt.Sprintf("%s-%d-%s", d.address.Number(), d.sequence, d.mark)
	if i > 0 {
		token += fmt.Sprintf("-%d", i+1)
	}
	return token
}

// markLength makes a mark of 40 bits, five to a letter.
const markLength = 8

// publish stores a message for the address, due now or after a while.
func (d *delivery) publish(ctx context.Context, a subject.Address, after time.Duration, header nats.Header, data []byte) error {
	m := nats.NewMsg(a.Under(subject.Chunk))
	m.Data = data
	if after > 0 {
		m = broker.Scheduled(subject.Later, a, d.now().Add(after), data)
	}
	for k, v := range header {
		m.Header[k] = v
	}
	// Where only the broker's answer was lost, the next try finds it there.
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
	return retry(ctx, d.log, func(ctx context.Context) error {
		_, err := d.broker.Publish(ctx, m)
		if !errors.Is(err, broker.ErrConflict) {
			return err
		}
		if _, err = d.broker.Stream.GetLastMsgForSubject(ctx, m.Subject); err != nil {
			// Still on its way into the stream, or already out of it.
			return fmt.Errorf("publishing %s: it is not there yet: %v", m.Subject, err)
		}
		return nil
	})
}
