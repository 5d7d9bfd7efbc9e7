// Package consume takes chunks from the broker, one at a time, and makes sure
// that whatever happens, an image is in a message or in a failure record.
package consume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/chunk"
	"github.com/osism/skopeo-worker/worker/metrics"
)

const (
	// maxDeliveries without an outcome make a message poison: it kills its worker.
	maxDeliveries = 5
	// grace is what running copies get when the worker is told to stop; Kubernetes
	// gives a pod 30 s in all.
	grace = 20 * time.Second
	// farewell is what remains to tell the broker what was not finished.
	farewell = 8 * time.Second
	// freshFor is how long after its delivery a digest in a message is believed.
	freshFor = 5 * time.Minute
	// heartbeats in one AckWait: three may be lost.
	heartbeats = 4
	// cutOffPause is how long a worker takes no chunk that does not reach a registry which
	// others reach: else it would take one after the other, only to give them back.
	cutOffPause = 30 * time.Second
	// pullExpiry is how long one pull request waits at the broker.
	pullExpiry = 30 * time.Second
	// pullHeartbeat is the interval of the broker's heartbeats meanwhile. After two that
	// are missing, the request is sent again.
	pullHeartbeat = 5 * time.Second
)

// Consumer works chunks off until it is told to stop.
type Consumer struct {
	broker   *broker.Broker
	runs     *run.Store
	ledger   *run.Ledger     // of the sweep
	settled  map[uint64]bool // runs that the sweep need not look at again, by their revision
	failures chunk.Failures
	worker   *chunk.Worker
	metrics  *metrics.Metrics
	log      *slog.Logger
	host     string
	now      func() time.Time
	pause    time.Duration // of a worker that is cut off
}

// New returns a consumer whose chunks the worker works off, and which records in failures
// the images of chunks that no worker can work off.
func New(ctx context.Context, b *broker.Broker, w *chunk.Worker, failures chunk.Failures, m *metrics.Metrics, log *slog.Logger) (*Consumer, error) {
	runs, err := run.Open(ctx, b)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	return &Consumer{host: host, broker: b, runs: runs, ledger: runs.Ledger(), settled: map[uint64]bool{}, failures: failures, worker: w, metrics: m, log: log, now: time.Now, pause: cutOffPause}, nil
}

// Run takes chunks until ctx ends. Then no new one is taken, running copies get a
// time of grace, and what is not finished goes back to the queue.
func (c *Consumer) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { c.sweep(ctx); return nil })
	group.Go(func() error { return c.broker.Keep(ctx) })
	group.Go(func() error { return c.consume(ctx) })
	return group.Wait()
}

// consume takes chunks until ctx ends. If the consumer is deleted at the broker, it
// recreates it and goes on.
func (c *Consumer) consume(ctx context.Context) error {
	for {
		err := c.pull(ctx)
		if ctx.Err() != nil && errors.Is(err, jetstream.ErrMsgIteratorClosed) {
			return nil
		}
		if !errors.Is(err, jetstream.ErrConsumerDeleted) {
			return fmt.Errorf("consuming chunks: %w", err)
		}
		c.log.Warn("the consumer was deleted at the broker; creating it again", "consumer", broker.ConsumerName)
		if err := retry(ctx, c.log, c.broker.Ensure); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// pull takes chunks until the broker or ctx ends it, and returns why.
func (c *Consumer) pull(ctx context.Context) error {
	messages, err := c.broker.Consumer.Messages(
		jetstream.PullMaxMessages(1), // the default prefetch would hoard chunks
		jetstream.PullExpiry(pullExpiry),
		jetstream.PullHeartbeat(pullHeartbeat),
	)
	if err != nil {
		return err
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Drain)()
	for {
		m, err := messages.Next()
		switch {
		case err == nil:
			// One that came while the pull was being drained goes back at once.
			if cutOff := c.take(ctx, m); cutOff {
				c.rest(ctx)
			}
		case errors.Is(err, jetstream.ErrMsgIteratorClosed), errors.Is(err, jetstream.ErrConsumerDeleted):
			return err
		default:
			c.log.Debug("waiting for chunks", "error", err)
		}
	}
}

// rest leaves the chunks to workers that reach all registries, for a while.
func (c *Consumer) rest(ctx context.Context) {
	timer := time.NewTimer(c.pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// take works one message off, and keeps it ours meanwhile. It reports whether only this
// worker does not reach a registry that was needed.
func (c *Consumer) take(ctx context.Context, m jetstream.Msg) (cutOff bool) {
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	tell, stopTelling := context.WithCancel(context.WithoutCancel(ctx))
	defer stopTelling()
	unhook := context.AfterFunc(ctx, func() {
		if errors.Is(context.Cause(ctx), broker.ErrFull) {
			// The outcome of copies could not be stored.
			stopWork()
			stopTelling()
			return
		}
		time.AfterFunc(grace, stopWork)
		time.AfterFunc(grace+farewell, stopTelling)
	})
	defer unhook()

	beat := time.NewTicker(c.broker.Consumer.CachedInfo().Config.AckWait / heartbeats)
	defer beat.Stop()
	go func() {
		for {
			select {
			case <-tell.Done():
				return
			case <-beat.C:
				_ = m.InProgress()
			}
		}
	}()

	d := delivery{Consumer: c, msg: m, stopping: ctx.Done(), work: work}
	start := time.Now()
	outcome, err := d.handle(tell)
	c.metrics.Chunk(time.Since(start), outcome)
	if err != nil {
		// Not acknowledged: it comes back, to us or to another worker.
		c.log.Error("left a chunk to the next delivery", "subject", m.Subject(), "error", c.broker.Explain(err))
		_ = m.Nak()
	}
	return d.cutOff
}
