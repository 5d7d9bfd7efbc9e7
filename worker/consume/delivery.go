package consume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/chunk"
	"github.com/osism/skopeo-worker/worker/metrics"
)

// delivery is one receipt of one message.
type delivery struct {
	*Consumer
	msg      jetstream.Msg
	address  subject.Address
	registry string // of the source
	number   uint64 // of this receipt, from 1
	sequence uint64
	stopping <-chan struct{}
	work     context.Context
	pieces   int    // published in place of this message so far
	mark     string // in the names of these pieces

	copies copies // under way
	cutOff bool   // only this worker does not reach a registry that was needed

	storing   sync.Mutex // held while the progress is on its way: an older one must not come last
	revision  uint64     // of what was last recorded of the message, as far as we know
	overtaken bool       // another worker is done with the message

	mu       sync.Mutex
	progress run.Progress
	earlier  run.Progress // what earlier deliveries of the message recorded
	changed  bool
}

// handle brings the message to an outcome, one of those of metrics, and acknowledges
// it. Where it could not, it is metrics.ChunkReturned, with the reason.
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
	d.number, d.sequence = meta.NumDelivered, meta.Sequence.Stream
	if d.address, err = subject.ParseAddress(d.msg.Subject()); err != nil {
		return metrics.ChunkUnworkable, d.reject(ctx, err)
	}
	c, err := message.Decode(d.msg.Data())
	if errors.Is(err, message.ErrNewer) {
		if r := d.run(ctx); r.Ended != "" && r.Kind == run.KindPlan { // nothing of it is needed any more
			c.Registry, _ = d.address.RegistryName()
			return metrics.ChunkDropped, d.drop(ctx, r, c)
		}
		return metrics.ChunkSnoozed, d.postpone(ctx, err)
	}
	if err == nil && c.Name != d.address.Name {
		err = fmt.Errorf("%w: it is of %s, its subject is not", message.ErrMalformed, c.Name)
	}
	if err != nil {
		return metrics.ChunkUnworkable, d.reject(ctx, err)
	}
	d.registry = c.Registry
	if d.earlier, d.revision, err = d.runs.Progress(ctx, d.address); err != nil {
		d.log.Warn("the status will be incomplete", "error", err)
	}
	if r := d.run(ctx); r.Ended != "" && !(r.Ended == run.StateSuperseded && republished(r, c)) {
		return metrics.ChunkDropped, d.drop(ctx, r, c)
	}
	if d.number > maxDeliveries {
		return metrics.ChunkUnworkable, d.poison(ctx, c)
	}
	return d.do(ctx, c, d.number == 1 && d.now().Sub(meta.Timestamp) < freshFor)
}

// do works the chunk off, and publishes what is left of it.
func (d *delivery) do(ctx context.Context, c message.Chunk, fresh bool) (outcome string, err error) {
	reporting, stop := context.WithCancel(ctx)
	defer stop()
	d.Progress(run.Tally{}, 0, 0)
	go d.report(reporting)
	result, err := d.worker.Do(ctx, d.work, chunk.Delivery{
		Chunk:     c,
		Fresh:     fresh,
		Remainder: d.address.Token != d.address.Number(),
		Stopping:  d.stopping,
		Observer:  d,
	})
	if err != nil {
		return "", err
	}
	if err := d.leave(ctx, c, result); err != nil {
		return "", err
	}
	d.cutOff = result.CutOff
	return d.outcome(result), d.end(ctx, run.Done)
}

// leave publishes the parts of the chunk and what is left of it. If another worker has
// acknowledged the message meanwhile, it has done so itself, and a run that is over must
// not begin again.
func (d *delivery) leave(ctx context.Context, c message.Chunk, result chunk.Result) error {
	if len(result.Parts) == 0 && len(result.Left) == 0 {
		return nil
	}
	acknowledged := false
	err := retry(ctx, d.log, func(ctx context.Context) (err error) {
		acknowledged, err = d.acknowledged(ctx)
		return err
	})
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

// outcome tells the metrics what became of the chunk.
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

// end stores the final progress and acknowledges the message. An acknowledgement that
// the broker does not take costs a delivery that finds nothing left to do.
func (d *delivery) end(ctx context.Context, state string) error {
	d.mu.Lock()
	d.progress.State = state
	d.mu.Unlock()
	if err := retry(ctx, d.log, optional(d.broker.Conn, d.store)); err != nil {
		d.log.Warn("the status will be incomplete", "error", err)
	}
	return retry(ctx, d.log, optional(d.broker.Conn, d.acknowledge))
}

// ackTimeout is how long the broker gets to answer an acknowledgement.
const ackTimeout = 5 * time.Second

// acknowledge takes the message out of the queue. A consumer that was recreated ignores
// the acknowledgement of a message that it has not delivered itself, and would deliver it
// to another worker. So the worker deletes a message that it cannot acknowledge.
func (d *delivery) acknowledge(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	refused := d.msg.DoubleAck(waiting)
	if refused == nil || ctx.Err() != nil || !d.broker.Conn.IsConnected() {
		return refused
	}
	gone, err := d.gone(ctx)
	if gone {
		return nil // somebody else was done with it, too
	}
	if err == nil {
		err = d.broker.Delete(ctx, d.sequence)
	}
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return errors.Join(refused, err)
	}
	return nil
}

// gone reports whether the stream does not hold the message any more. A stream that was
// recreated has other messages with the same sequences.
func (d *delivery) gone(ctx context.Context) (bool, error) {
	m, err := d.broker.Next(ctx, broker.StreamName, d.msg.Subject(), d.sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, nil
	}
	return err == nil && m.Sequence != d.sequence, err
}

// acknowledged reports whether another worker has finished and acknowledged the message,
// which it records first. Any other message that is gone was deleted at the broker.
func (d *delivery) acknowledged(ctx context.Context) (bool, error) {
	gone, err := d.gone(ctx)
	if err != nil || !gone {
		return false, err
	}
	recorded, _, err := d.runs.Progress(ctx, d.address)
	return recorded.Over() || d.earlier.Over(), err
}
