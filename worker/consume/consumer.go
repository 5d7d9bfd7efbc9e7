// Package consume takes chunks from the broker, a few at a time. It makes sure that every
// image of a chunk is in a message or in a failure record before the chunk is acknowledged.
package consume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/chunk"
	"github.com/osism/skopeo-worker/worker/metrics"
)

const (
	// maxDeliveries is how often a chunk is delivered without an outcome before it is recorded as
	// failed: it may crash its worker.
	maxDeliveries = 5
	// grace is how long running copies may go on after the worker was stopped. Kubernetes
	// gives a pod 30 s in all.
	grace = 20 * time.Second
	// farewell is the time after that for requeueing the rest.
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
	// pullHeartbeat is the interval of the broker's heartbeats while a pull request waits. After two missing
	// heartbeats, the request is sent again.
	pullHeartbeat = 5 * time.Second
	// pullNoted is how long nats.go may take to note that a pull request was sent.
	pullNoted = 20 * time.Millisecond
	// chunksAtOnce is how many chunks a worker holds at most, and comparedAtOnce how many of them
	// before they are compared: that takes the most memory. While one of them waits for answers,
	// the others go on.
	chunksAtOnce   = 8
	comparedAtOnce = 4
	// lookAgain is how often a worker that holds a chunk looks whether the fleet has enough
	// left for it to take another.
	lookAgain = 5 * time.Second
	// fewDeliveries is how often a chunk is delivered before it is held alone: it may crash its
	// worker, and that counts as a delivery of all chunks that the worker holds.
	fewDeliveries = 2
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
	load     *load
	now      func() time.Time
	pause    time.Duration // cutOffPause; tests shorten it

	places *semaphore.Weighted // for chunks
	takes  sync.WaitGroup
	held   atomic.Int64  // chunks
	known  atomic.Int64  // those of them that are compared
	noted  chan struct{} // has an item after a chunk was compared or has ended

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
	return &Consumer{broker: b, runs: runs, changes: changes, catalog: seen, holdings: holdings, failures: failures, worker: w, metrics: m, log: log, host: host, load: newLoad(),
		now: time.Now, pause: cutOffPause, places: semaphore.NewWeighted(chunksAtOnce), noted: make(chan struct{}, 1), ledger: runs.Ledger(), settled: map[uint64]bool{}}, nil
}

// Run takes chunks until ctx ends. Then running copies have a grace period, and unfinished work is
// requeued.
func (c *Consumer) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { c.sweep(ctx); return nil })
	group.Go(func() error { return c.broker.Keep(ctx) })
	group.Go(func() error { return c.consume(ctx) })
	err := group.Wait()
	c.takes.Wait()
	return err
}

// consume takes chunks until ctx ends. If the consumer is deleted at the broker, it
// creates it again.
func (c *Consumer) consume(ctx context.Context) error {
	for {
		err := c.pull(ctx)
		switch {
		case errors.Is(err, jetstream.ErrMsgIteratorClosed):
			if ctx.Err() != nil {
				return nil
			}
			c.rest(ctx)
			continue
		case !errors.Is(err, jetstream.ErrConsumerDeleted):
			return fmt.Errorf("consuming chunks: %w", err)
		}
		c.log.Warn("the consumer was deleted at the broker; creating it again", "consumer", broker.ConsumerName)
		if err := retry(ctx, c.log, c.broker.Ensure); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// pull takes chunks until the broker or ctx ends it, or this worker alone does not reach a
// registry. It returns the reason; jetstream.ErrMsgIteratorClosed for the latter two.
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
	pulling, retreat := context.WithCancel(ctx)
	defer retreat()
	defer context.AfterFunc(pulling, messages.Drain)()
	for {
		// If pulling ends meanwhile, next returns a chunk that has come already.
		placed := c.place(pulling)
		m, err := c.next(messages)
		if err != nil {
			if placed {
				c.places.Release(1)
			}
			return err
		}
		c.held.Add(1)
		worked := c.load.begin(m) // in the order in which they come
		done := make(chan struct{})
		c.takes.Go(func() {
			defer close(done)
			defer worked()
			c.take(ctx, m, retreat) // if ctx has ended meanwhile, the chunk is requeued at once
			if placed {
				c.places.Release(1)
			}
			c.held.Add(-1)
			c.note()
		})
		if isHeldAlone(m) {
			<-done
		}
	}
}

// isHeldAlone reports whether a worker holds no other chunk with this one.
func isHeldAlone(m jetstream.Msg) bool {
	meta, err := m.Metadata()
	return err == nil && meta.NumDelivered > fewDeliveries
}

// next waits for a chunk. An error means that no other chunk will come. A call of Next sends no
// request if nats.go has not noted yet that its last request was sent (fetchInProgress in
// jetstream/pull.go). So the first call ends soon, and in that case the second one requests the
// chunk.
func (c *Consumer) next(messages jetstream.MessagesContext) (jetstream.Msg, error) {
	m, err := messages.Next(jetstream.NextMaxWait(pullNoted))
	if errors.Is(err, nats.ErrTimeout) {
		m, err = messages.Next()
	}
	for err != nil && !errors.Is(err, jetstream.ErrMsgIteratorClosed) && !errors.Is(err, jetstream.ErrConsumerDeleted) {
		c.log.Debug("waiting for chunks", "error", err)
		m, err = messages.Next()
	}
	return m, err
}

// place waits until the worker should take a chunk, and returns true; false if ctx ends first. A
// worker that holds a chunk takes another if its copies leave room for more. If fewer chunks are
// left than workers could hold, it first compares those that it has, so that it takes none from an
// idle worker.
func (c *Consumer) place(ctx context.Context) bool {
	if c.places.Acquire(ctx, 1) != nil {
		return false
	}
	for c.held.Load() > 0 && ctx.Err() == nil {
		c.worker.Idle(ctx)
		if c.hasRoom(ctx) {
			break
		}
		timer := time.NewTimer(lookAgain)
		select {
		case <-timer.C:
		case <-c.noted:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return true
}

// hasRoom reports whether a worker that holds chunks should take another.
func (c *Consumer) hasRoom(ctx context.Context) bool {
	unknown := c.held.Load() - c.known.Load()
	if unknown >= comparedAtOnce || c.worker.Alone {
		return unknown < comparedAtOnce
	}
	left, held := c.left(ctx)
	return left > held || unknown == 0 && left > 0
}

// note wakes place.
func (c *Consumer) note() {
	select {
	case c.noted <- struct{}{}:
	default:
	}
}

// left returns how many chunks are left, and how many the workers hold; none if the broker does
// not answer.
func (c *Consumer) left(ctx context.Context) (left, held int) {
	consumer, err := c.broker.Stream.Consumer(ctx, broker.ConsumerName)
	if err != nil {
		return 0, 0
	}
	info := consumer.CachedInfo()
	return int(info.NumPending), info.NumAckPending
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
// deliver it again. It calls retreat if this worker alone does not reach a registry.
func (c *Consumer) take(ctx context.Context, m jetstream.Msg, retreat func()) {
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

	if isHeldAlone(m) && c.places.Acquire(ctx, chunksAtOnce-1) == nil {
		defer c.places.Release(chunksAtOnce - 1)
	}
	d := delivery{consumer: c, msg: m, stopping: ctx.Done(), work: work, retreat: retreat}
	defer d.forget()
	start := time.Now()
	outcome, err := d.handle(storing)
	c.metrics.Chunk(time.Since(start), outcome)
	if err != nil {
		c.log.Error("a chunk will be delivered again", "subject", m.Subject(), "error", c.broker.Explain(err))
		_ = m.Nak()
	}
}
