// Package budget shares the limits of registries among all workers of a broker: pulls in a
// window, requests a second, and which registries are closed for now.
//
// All times that this package returns are by the broker's clock, which also fires
// schedules; Store.Now returns it. The clocks of workers do not matter.
package budget

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
)

const (
	// refreshInterval is how often the broker's clock is read, and whether anything was
	// missed or deleted.
	refreshInterval = time.Minute
	// refreshRetry is the pause after a refresh that failed. A broker that has just
	// started may not have opened its streams yet.
	refreshRetry = time.Second
	// openTimeout bounds the wait of Open for buckets that were just created.
	openTimeout = 10 * time.Second
)

// Store is one process's view of the shared budget. It is safe for concurrent use.
type Store struct {
	id    string // of this process, among those that probe
	b     *broker.Broker
	log   *slog.Logger
	clock clock

	limits, closures jetstream.KeyValue
	pace             jetstream.Stream

	jitter func(time.Duration) time.Duration // uniform in [0, d)

	mu      sync.RWMutex
	view    view
	windows map[string]*window // by stream
	lanes   map[string]*lane   // by subject

	connections map[string]*connection // by line
	rates       map[string]Rates       // set, by registry
	latencies   sync.Map               // *latency by registry

	stop    context.CancelFunc
	life    context.Context
	running sync.WaitGroup
}

// Open opens the shared budget of a broker's fleet, reads it, and follows it until Close. The context bounds the opening only.
func Open(ctx context.Context, b *broker.Broker, log *slog.Logger) (*Store, error) {
	return open(ctx, b, log, time.Now)
}

func open(ctx context.Context, b *broker.Broker, log *slog.Logger, now func() time.Time) (*Store, error) {
	s := &Store{
		id: crand.Text(), b: b, log: log, clock: clock{local: now},
		jitter:  rand.N[time.Duration],
		view:    newView(),
		windows: map[string]*window{},
		lanes:   map[string]*lane{},

		connections: map[string]*connection{}, rates: map[string]Rates{},
	}
	var err error
	if s.limits, err = b.Bucket(ctx, jetstream.KeyValueConfig{Bucket: bucketLimits, Description: "skopeo-worker: limits of registries"}); err != nil {
		return nil, err
	}
	if s.closures, err = b.Bucket(ctx, jetstream.KeyValueConfig{Bucket: bucketClosed, Description: "skopeo-worker: registries that limit requests or are away", TTL: closuresKept}); err != nil {
		return nil, err
	}
	if s.pace, err = s.openPace(ctx); err != nil {
		return nil, err
	}
	// Not every server of a cluster knows yet the streams that another worker has just created.
	for end := time.Now().Add(openTimeout); ; time.Sleep(refreshRetry / 10) {
		err = broker.Answered(ctx, func() error { return s.refresh(ctx) })
		if !errors.Is(err, jetstream.ErrStreamNotFound) || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	s.life, s.stop = context.WithCancel(context.Background())
	limits, closures := s.watch(s.limits), s.watch(s.closures)
	s.running.Go(func() { s.follow(limits, closures) })
	return s, nil
}

// Close ends following. After that, the store returns outdated values.
func (s *Store) Close() {
	s.stop()
	s.running.Wait()
}

// Now returns the time by the broker's clock, late by at most one round trip.
func (s *Store) Now() time.Time { return s.clock.now() }

// clock gives the broker's time: the last one that the broker has sent, and what has
// passed since by this process's monotonic clock. A wrong local clock makes no difference.
type clock struct {
	local func() time.Time
	at    atomic.Pointer[reading]
}

type reading struct{ broker, local time.Time }

// set takes the time that the broker has just sent. The answer took some time, so the
// broker is ahead of this clock, by at most one round trip.
func (c *clock) set(broker time.Time) { c.at.Store(&reading{broker: broker, local: c.local()}) }

func (c *clock) now() time.Time { return c.broker(c.local()) }

// broker converts a local time into the broker's.
func (c *clock) broker(local time.Time) time.Time {
	at := c.at.Load()
	return at.broker.Add(local.Sub(at.local))
}

// latest returns the later one of two times.
func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// follow keeps the view up to date until the store is closed.
func (s *Store) follow(limits, closures jetstream.KeyWatcher) {
	connected := s.b.Conn.StatusChanged(nats.CONNECTED)
	defer s.b.Conn.RemoveStatusListener(connected)
	refresh := time.NewTimer(refreshInterval)
	defer refresh.Stop()
	for {
		var e jetstream.KeyValueEntry
		var ok bool
		select {
		case <-s.life.Done():
			return
		case e, ok = <-updates(limits):
			if !ok {
				limits = nil
			}
		case e, ok = <-updates(closures):
			if !ok {
				closures = nil
			}
		case <-connected:
			// A restarted broker has forgotten its watches. They would notice only after
			// some seconds.
			stop(limits)
			stop(closures)
			limits, closures = nil, nil
			refresh.Reset(0)
		case <-refresh.C:
			next := refreshInterval
			if err := s.refresh(s.life); err != nil {
				s.log.Debug("reading the shared budget again", "error", err)
				next = refreshRetry
			}
			if limits == nil {
				limits = s.watch(s.limits)
			}
			if closures == nil {
				closures = s.watch(s.closures)
			}
			refresh.Reset(next)
		}
		if e != nil {
			s.apply(entryOf(e), true)
		}
	}
}

// watch follows a bucket from its beginning. It returns nil if the broker does not answer.
func (s *Store) watch(kv jetstream.KeyValue) jetstream.KeyWatcher {
	w, err := kv.WatchAll(s.life)
	if err != nil {
		s.log.Debug("following the shared budget", "bucket", kv.Bucket(), "error", err)
		return nil
	}
	return w
}

// updates returns the channel of a watch. If w is nil, the channel never receives.
func updates(w jetstream.KeyWatcher) <-chan jetstream.KeyValueEntry {
	if w == nil {
		return nil
	}
	return w.Updates()
}

// stop ends a watch, if there is one.
func stop(w jetstream.KeyWatcher) {
	if w != nil {
		_ = w.Stop()
	}
}

// refresh reads the broker's clock and the new entries of both buckets, and makes the configuration
// of every window be checked again before its next token.
func (s *Store) refresh(ctx context.Context) error {
	info, err := s.pace.Info(ctx)
	if err != nil {
		return fmt.Errorf("reading the broker's time: %w", err)
	}
	s.clock.set(info.TimeStamp)
	for _, kv := range []jetstream.KeyValue{s.limits, s.closures} {
		status, err := kv.Status(ctx)
		if err != nil {
			return fmt.Errorf("reading the state of bucket %s: %w", kv.Bucket(), err)
		}
		bucket, ok := status.(*jetstream.KeyValueBucketStatus)
		if !ok {
			continue
		}
		s.created(kv.Bucket(), bucket.StreamInfo().Created)
		if bucket.StreamInfo().State.Msgs == 0 {
			continue // a cluster may not answer more of a bucket that was just created
		}
		if err := s.read(ctx, kv); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.windows {
		w.forget()
	}
	return nil
}

// CatchUp reads the new entries of the buckets, so that everything that was stored before the call
// counts from now on. A worker that receives a chunk catches up with the planner that has published
// it. Without new entries, it costs two small requests.
func (s *Store) CatchUp(ctx context.Context) error {
	if err := s.read(ctx, s.limits); err != nil {
		return err
	}
	return s.read(ctx, s.closures)
}

// read reads the new entries of a bucket.
func (s *Store) read(ctx context.Context, kv jetstream.KeyValue) error {
	s.mu.RLock()
	after := s.view.read[kv.Bucket()]
	s.mu.RUnlock()
	_, err := s.b.Entries(ctx, kv.Bucket(), ">", after, func(e jetstream.KeyValueEntry) { s.apply(entryOf(e), true) })
	return err
}
