// Package consume takes chunks from the broker, one at a time. It makes sure that every
// image of a chunk is in a message or in a failure record before the chunk is acknowledged.
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
	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/chunk"
	"github.com/osism/skopeo-worker/worker/metrics"
)

const (
	// maxDeliveries is how often a chunk is tried whose deliveries have no outcome: it may
	// crash its worker.
	maxDeliveries = 5
	// grace is how long running copies may go on after the worker was stopped. Kubernetes
	// gives a pod 30 s in all.
	grace = 20 * time.Second
	// farewell is the time after that to requeue what was not finished.
	farewell = 8 * time.Second
	// freshFor is how long after its publication a digest in a message is current.
	freshFor = 5 * time.Minute
	// heartbeats are sent so often in one AckWait that three may be lost.
	heartbeats = 4
	// cutOffPause is how long a worker takes no chunk after it alone did not reach a
	// registry. Without it, the worker would take and requeue one chunk after the other.
	cutOffPause = 30 * time.Second
	// pullExpiry is how long one pull request waits at the broker.
	pullExpiry = 30 * time.Second
	// pullHeartbeat is the interval of the broker's heartbeats meanwhile. After two missing
	// heartbeats, the request is sent again.
	pullHeartbeat = 5 * time.Second
)

// Consumer takes chunks until it is stopped.
type Consumer struct {
	broker   *broker.Broker
	runs     *run.Store
	changes  *change.Store
	catalog  *catalog.Store
	holdings *holding.Store
	failures chunk.Failures
	worker   *chunk.Worker
	metrics  *metrics.Metrics
	log      *slog.Logger
	host     string // of this process, in the progress of copies
	now      func() time.Time
	pause    time.Duration // cutOffPause; tests shorten it

	ledger  *run.Ledger     // the runs, for the search for lost chunks
	settled map[uint64]bool // runs that need not be searched again, by revision
}

// New returns a consumer that gives chunks to the worker. Chunks that the worker cannot
// work off are recorded in failures.
func New(ctx context.Context, b *broker.Broker, w *chunk.Worker, failures chunk.Failures, m *metrics.Metrics, log *slog.Logger) (*Consumer, error) {
	runs, err := run.Open(ctx, b)
	if err != nil {
		return nil, err
	}
	changes, err := change.Open(ctx, b)
	if err != nil {
		return nil, err
	}
	seen, err := catalog.Open(ctx, b)
	if err != nil {
		return nil, err
	}
	holdings, err := holding.Open(ctx, b, log)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	return &Consumer{broker: b, runs: runs, changes: changes, catalog: seen, holdings: holdings, failures: failures, worker: w, metrics: m, log: log, host: host,
		now: time.Now, pause: cutOffPause, ledger: runs.Ledger(), settled: map[uint64]bool{}}, nil
}

// Run takes chunks until ctx ends. Then running copies have a time of grace, and what is
// not finished is requeued.
func (c *Consumer) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { c.sweep(ctx); return nil })
	group.Go(func() error { return c.broker.Keep(ctx) })
	group.Go(func() error { return c.consume(ctx) })
	return group.Wait()
}

// consume takes chunks until ctx ends. If the consumer is deleted at the broker, it
// creates it again.
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

// pull takes chunks until the broker or ctx ends it, and returns the reason.
func (c *Consumer) pull(ctx context.Context) error {
	messages, err := c.broker.Consumer.Messages(
		jetstream.PullMaxMessages(1), // by default, a worker would hold many chunks
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
			// If ctx has ended meanwhile, the chunk is requeued at once.
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

// rest leaves the chunks to other workers for a while.
func (c *Consumer) rest(ctx context.Context) {
	timer := time.NewTimer(c.pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// take works off one message, and sends heartbeats meanwhile so that the broker does not
// deliver it again. It reports whether this worker alone does not reach a registry.
func (c *Consumer) take(ctx context.Context, m jetstream.Msg) (cutOff bool) {
	// work is the context of copies, storing that of requests to the broker.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	storing, stopStoring := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStoring()
	unhook := context.AfterFunc(ctx, func() {
		if errors.Is(context.Cause(ctx), broker.ErrFull) {
			// The outcome of copies could not be stored.
			stopWork()
			stopStoring()
			return
		}
		time.AfterFunc(grace, stopWork)
		time.AfterFunc(grace+farewell, stopStoring)
	})
	defer unhook()

	beat := time.NewTicker(c.broker.Consumer.CachedInfo().Config.AckWait / heartbeats)
	defer beat.Stop()
	go func() {
		for {
			select {
			case <-storing.Done():
				return
			case <-beat.C:
				_ = m.InProgress()
			}
		}
	}()

	d := delivery{consumer: c, msg: m, stopping: ctx.Done(), work: work}
	start := time.Now()
	outcome, err := d.handle(storing)
	c.metrics.Chunk(time.Since(start), outcome)
	if err != nil {
		c.log.Error("a chunk will be delivered again", "subject", m.Subject(), "error", c.broker.Explain(err))
		_ = m.Nak()
	}
	return d.cutOff
}
