package consume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/chunk"
	"github.com/osism/skopeo-worker/worker/metrics"
)

// delivery is one delivery of one message.
type delivery struct {
	consumer *Consumer
	msg      jetstream.Msg
	address  subject.Address
	registry string // of the source
	number   uint64 // of this delivery, from 1
	sequence uint64 // of the message in the stream
	stopping <-chan struct{}
	work     context.Context // of copies
	pieces   int             // messages that were published in place of this one
	mark     string          // of these messages; see subject.Address.Remainder

	compared atomic.Bool // its jobs are known

	copies  copies // under way
	changes changes
	seen    seen
	retreat func() // called if this worker alone does not reach a registry

	storing   sync.Mutex // held while the progress is stored, so that an older one does not come last
	revision  uint64     // of the last known progress of the message
	overtaken bool       // another worker has finished the message

	mu       sync.Mutex
	progress run.Progress
	earlier  run.Progress // recorded by earlier deliveries of the message
	changed  bool
}

// handle works off the message and acknowledges it. It returns an outcome of package metrics: with
// an error, metrics.ChunkReturned.
func (d *delivery) handle(ctx context.Context) (outcome string, err error) {
	defer func() {
		if err != nil {
			outcome = metrics.ChunkReturned
		}
	}()
	meta, err := d.msg.Metadata()
	if err != nil {
		return "", err
	}
	d.number, d.sequence, d.mark = meta.NumDelivered, meta.Sequence.Stream, newMark()
	if d.address, err = subject.ParseAddress(d.msg.Subject()); err != nil {
		return metrics.ChunkUnworkable, d.reject(ctx, err)
	}
	c, err := message.Decode(d.msg.Data())
	if errors.Is(err, message.ErrNewer) {
		if r := d.run(ctx); r.Ended != "" && r.Kind == run.KindPlan { // its images are no longer needed
			c.Registry, _ = d.address.RegistryName()
			return metrics.ChunkDropped, d.drop(ctx, r, c)
		}
		return metrics.ChunkSnoozed, d.postpone(ctx, err)
	}
	if err == nil && c.Name != d.address.Name {
		err = fmt.Errorf("%w: its mirror name is %s, that of its subject is not", message.ErrMalformed, c.Name)
	}
	if err != nil {
		return metrics.ChunkUnworkable, d.reject(ctx, err)
	}
	d.registry = c.Registry
	if d.earlier, d.revision, err = d.consumer.runs.Progress(ctx, d.address); err != nil {
		d.consumer.log.Warn("the status will be incomplete", "error", err)
	}
	d.overtaken = d.earlier.Over() // it was not acknowledged, and may be by now
	if r := d.run(ctx); r.Ended != "" && !(r.Ended == run.StateSuperseded && republished(r, c)) {
		return metrics.ChunkDropped, d.drop(ctx, r, c)
	}
	if d.number > maxDeliveries {
		return metrics.ChunkUnworkable, d.poison(ctx, c)
	}
	return d.do(ctx, c, d.number == 1 && d.consumer.now().Sub(meta.Timestamp) < freshFor)
}

// Compared implements chunk.Observer.
func (d *delivery) Compared() {
	if !d.compared.Swap(true) {
		d.consumer.known.Add(1)
		d.consumer.note()
	}
}

// forget undoes Compared when the delivery has ended.
func (d *delivery) forget() {
	if d.compared.Load() {
		d.consumer.known.Add(-1)
	}
}

// do works off the chunk, and publishes its remainder.
func (d *delivery) do(ctx context.Context, c message.Chunk, fresh bool) (outcome string, err error) {
	reporting, stop := context.WithCancel(ctx)
	defer stop()
	d.Progress(run.Tally{}, 0, 0)
	go d.report(reporting)
	d.expect(ctx, c)
	result, err := d.consumer.worker.Do(ctx, d.work, chunk.Delivery{
		Chunk:     c,
		Fresh:     fresh,
		Remainder: d.address.Token != d.address.Number(),
		Stopping:  d.stopping,
		Observer:  d,
	})
	if err != nil {
		return "", errors.Join(err, d.noteChanges(ctx))
	}
	if err := d.optional(ctx, d.noteChanges); err != nil {
		d.consumer.log.Warn("the changes of the run will be incomplete", "error", err)
	}
	if err := d.optional(ctx, d.noteSeen); err != nil {
		d.consumer.log.Warn("the catalog of repositories will be incomplete", "error", err)
	}
	if result.CutOff {
		d.retreat() // otherwise, this worker would receive the remainder again
	}
	if err := d.leave(ctx, c, result); err != nil {
		return "", err
	}
	return d.outcome(result), d.end(ctx, run.Done)
}

// outcome returns the outcome of a chunk for the metrics.
func (d *delivery) outcome(r chunk.Result) string {
	switch {
	case len(r.Parts) > 0:
		return metrics.ChunkSplit
	case len(r.Left) == 0:
		return metrics.ChunkDone
	}
	select {
	case <-d.stopping:
		return metrics.ChunkInterrupted
	default:
		return metrics.ChunkSnoozed
	}
}

// optional tries an operation at the broker without which the chunk can be done, too.
func (d *delivery) optional(ctx context.Context, operation func(context.Context) error) error {
	return retry(ctx, d.consumer.log, optional(d.consumer.broker.Conn, operation))
}

// end stores the final progress and acknowledges the message. If the broker does not accept
// the acknowledgement, the next delivery of the message finds nothing to do.
func (d *delivery) end(ctx context.Context, state string) error {
	d.mu.Lock()
	d.progress.State = state
	d.mu.Unlock()
	if err := d.optional(ctx, d.store); err != nil {
		d.consumer.log.Warn("the status will be incomplete", "error", err)
	}
	return d.optional(ctx, d.acknowledge)
}

// ackTimeout is how long the broker may take to confirm an acknowledgement.
const ackTimeout = 5 * time.Second

// acknowledge removes the message from the queue. A consumer that was created again ignores
// the acknowledgement of a message that it has not delivered itself, and would deliver it to
// another worker. So the worker deletes a message that it cannot acknowledge.
func (d *delivery) acknowledge(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	refused := d.msg.DoubleAck(waiting)
	if refused == nil || ctx.Err() != nil || !d.consumer.broker.Conn.IsConnected() {
		return refused
	}
	gone, err := d.gone(ctx)
	if gone {
		return nil // another worker has finished the chunk, too
	}
	if err == nil {
		err = d.consumer.broker.Delete(ctx, d.sequence)
	}
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return errors.Join(refused, err)
	}
	return nil
}

// gone reports whether the stream no longer holds the message. A stream that was created
// again has other messages with the same sequences.
func (d *delivery) gone(ctx context.Context) (bool, error) {
	m, err := d.consumer.broker.Next(ctx, broker.StreamName, d.msg.Subject(), d.sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, nil
	}
	return err == nil && m.Sequence != d.sequence, err
}

// acknowledged reports whether another worker has finished and acknowledged the message. Any
// other message that is gone was deleted at the broker.
func (d *delivery) acknowledged(ctx context.Context) (bool, error) {
	gone, err := d.gone(ctx)
	if err != nil || !gone {
		return false, err
	}
	recorded, _, err := d.consumer.runs.Progress(ctx, d.address)
	if !recorded.Over() {
		recorded = d.earlier
	}
	if recorded.Over() {
		d.mark = recorded.Mark // the mark that the other worker has recorded stays
	}
	return recorded.Over(), err
}
