package consume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/chunk"
)

const (
	// headerFirstSeen is when a message of a newer version was first received.
	headerFirstSeen = "Mirror-First-Seen"
	// newerRetry is how long such a message waits for a worker that understands it,
	// and newerLimit how long it does so in all: a rolling update is over by then.
	newerRetry = time.Minute
	newerLimit = 24 * time.Hour
	// reportInterval bounds how often the progress of a chunk is stored.
	reportInterval = time.Second
)

// errPoison is the reason recorded for a message that never had an outcome.
var errPoison = fmt.Errorf("%d deliveries without an outcome: the worker died, or lost the broker, each time it had this chunk", maxDeliveries)

// delivery is one receipt of one message.
type delivery struct {
	*Consumer
	msg      jetstream.Msg
	address  subject.Address
	number   uint64 // of this receipt, from 1
	sequence uint64
	stopping <-chan struct{}
	work     context.Context

	mu       sync.Mutex
	progress run.Progress
	earlier  run.Progress // what earlier deliveries of the message recorded
	changed  bool
}

// handle brings the message to an outcome and acknowledges it.
func (d *delivery) handle(ctx context.Context) error {
	meta, err := d.msg.Metadata()
	if err != nil {
		return err
	}
	d.number, d.sequence = meta.NumDelivered, meta.Sequence.Stream
	if d.address, err = subject.ParseAddress(d.msg.Subject()); err != nil {
		return d.reject(ctx, err)
	}
	c, err := message.Decode(d.msg.Data())
	if errors.Is(err, message.ErrNewer) {
		return d.postpone(ctx, err)
	}
	if err != nil {
		return d.reject(ctx, err)
	}
	if d.number > maxDeliveries {
		return d.poison(ctx, c)
	}
	if d.earlier, err = d.runs.Progress(ctx, d.address); err != nil {
		d.log.Warn("the status will be incomplete", "error", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	d.Progress(run.Tally{}, 0, 0)
	go d.report(ctx)
	result, err := d.worker.Do(ctx, d.work, chunk.Delivery{
		Chunk:    c,
		Fresh:    d.number == 1 && time.Since(meta.Timestamp) < freshFor,
		Stopping: d.stopping,
		Observer: d,
	})
	if err != nil {
		return err
	}
	if len(result.Left) > 0 {
		c.Repositories = result.Left
		if err := d.remainder(ctx, c, result.After); err != nil {
			return err
		}
	}
	return d.done(ctx)
}

// done stores the final progress and acknowledges the message.
func (d *delivery) done(ctx context.Context) error {
	d.mu.Lock()
	d.progress.State = run.Done
	d.mu.Unlock()
	d.store(ctx)
	return insist(ctx, d.log, func(ctx context.Context) error { return d.msg.DoubleAck(ctx) })
}

// remainder publishes what is left, before the message is acknowledged: due now,
// or after a while.
func (d *delivery) remainder(ctx context.Context, c message.Chunk, after time.Duration) error {
	pieces, err := message.Split(c)
	if err != nil {
		return err
	}
	for i, piece := range pieces {
		data, err := piece.Encode()
		if err != nil {
			return err
		}
		a := d.address
		a.Token = d.nextToken(i)
		progress := run.Progress{State: run.Snoozed, Due: time.Now().Add(after).UTC(), Updated: time.Now().UTC()}
		for _, r := range piece.Repositories {
			progress.Images.Total += len(r.Images)
		}
		if err := d.runs.Record(ctx, a, progress); err != nil {
			d.log.Warn("the status will be incomplete", "error", err)
		}
		if err := d.publish(ctx, a, after, nil, data); err != nil {
			return err
		}
	}
	return nil
}

// nextToken names the i-th remainder of this message. No two deliveries of a
// message share a name: a schedule's subject must never be written twice.
func (d *delivery) nextToken(i int) string {
	token := fmt.Sprintf("%s-%d", d.address.Number(), d.sequence)
	if d.number > 1 || i > 0 {
		token += fmt.Sprintf("-%d", d.number)
	}
	if i > 0 {
		token += fmt.Sprintf("-%d", i+1)
	}
	return token
}

func (d *delivery) publish(ctx context.Context, a subject.Address, after time.Duration, header nats.Header, data []byte) error {
	return insist(ctx, d.log, func(ctx context.Context) error {
		m := nats.NewMsg(a.Under(subject.Chunk))
		m.Data = data
		if after > 0 {
			m = broker.Scheduled(subject.Later, a, time.Now().Add(after), data)
		}
		for k, v := range header {
			m.Header[k] = v
		}
		_, err := d.broker.Publish(ctx, m)
		return err
	})
}

// poison records every image of the chunk as failed.
func (d *delivery) poison(ctx context.Context, c message.Chunk) error {
	d.log.Error("gave up a chunk", "run", c.Run, "chunk", c.Number, "deliveries", d.number-1)
	failed := 0
	for _, r := range c.Repositories {
		record := failure.Of(c, r, r.Images, errPoison.Error())
		if err := d.worker.Failures.Add(ctx, c.Name, record); err != nil {
			return err
		}
		failed += len(record.Images)
	}
	d.progress.Images = run.Tally{Total: failed, Failed: failed}
	return d.done(ctx)
}

// postpone gives a message of a newer version to a later worker, as it is.
func (d *delivery) postpone(ctx context.Context, cause error) error {
	first, err := time.Parse(time.RFC3339, d.msg.Headers().Get(headerFirstSeen))
	if err != nil {
		first = time.Now()
	}
	if time.Since(first) > newerLimit {
		return d.reject(ctx, fmt.Errorf("%w: no worker of that version came in %s", cause, newerLimit))
	}
	d.log.Warn("left a chunk to a newer worker", "subject", d.msg.Subject(), "reason", cause)
	a := d.address
	a.Token = d.nextToken(0)
	header := nats.Header{headerFirstSeen: {first.UTC().Format(time.RFC3339)}}
	if err := d.publish(ctx, a, newerRetry, header, d.msg.Data()); err != nil {
		return err
	}
	return d.done(ctx)
}

// reject records a message that cannot be read, with its bytes.
func (d *delivery) reject(ctx context.Context, cause error) error {
	name, registry := d.address.Name, d.address.Registry
	if !subject.ValidName(name) {
		name, registry = unreadableName, "unknown"
	}
	source := fmt.Sprintf("message %d on %s", d.sequence, d.msg.Subject())
	d.log.Error("cannot read a message", "subject", d.msg.Subject(), "error", cause)
	err := d.worker.Failures.Add(ctx, name, failure.Record{
		Repository: source,
		Registry:   registry,
		Run:        d.address.Run,
		Message:    d.msg.Data(),
		Images:     []failure.Image{{Source: source, Attempts: int(d.number), Reason: cause.Error()}},
	})
	if err != nil {
		return err
	}
	d.progress.Images = run.Tally{Total: 1, Failed: 1}
	return d.done(ctx)
}

// unreadableName is the mirror name that unreadable messages on a subject without
// one are recorded under: the default one, where people look first.
const unreadableName = "default"

// Image implements chunk.Observer.
func (d *delivery) Image(registry, outcome string) { d.metrics.Image(registry, outcome) }

// Progress implements chunk.Observer. Pulls of earlier deliveries were made, too.
func (d *delivery) Progress(images run.Tally, pulls int, bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := run.Progress{State: run.Running, Images: images, Pulls: d.earlier.Pulls + pulls, Bytes: d.earlier.Bytes + bytes}
	if d.progress.State == run.Running {
		d.metrics.Spent(p.Pulls-d.progress.Pulls, p.Bytes-d.progress.Bytes)
	}
	d.progress, d.changed = p, true
}

// report stores the progress while the chunk is worked on.
func (d *delivery) report(ctx context.Context) {
	ticker := time.NewTicker(reportInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		d.mu.Lock()
		due := d.changed && d.progress.State == run.Running
		d.mu.Unlock()
		if due {
			d.store(ctx)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// store records the progress. Nothing depends on it but what people see.
func (d *delivery) store(ctx context.Context) {
	if d.address.Token == "" {
		return
	}
	d.mu.Lock()
	d.progress.Updated, d.changed = time.Now().UTC(), false
	p := d.progress
	d.mu.Unlock()
	if err := d.runs.Record(ctx, d.address, p); err != nil && ctx.Err() == nil {
		d.log.Warn("the status will be incomplete", "error", err)
	}
}
