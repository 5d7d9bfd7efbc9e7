// Package budget shares what the source registries allow among all workers of a
// broker: pulls in a window, requests a second, and which registries are closed
// for now.
//
// Every time that leaves this package is by the broker's clock, the one by which
// schedules fire; Store.Now tells it. No worker's clock matters.
package budget

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
)

// relistInterval is how often everything is read again: the expiry of an entry is
// not told to those who watch it.
const relistInterval = time.Minute

// relistRetry is the pause after a list that failed, as it does while a broker
// that is back has not opened its streams yet.
const relistRetry = time.Second

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

	stop    context.CancelFunc
	life    context.Context
	running sync.WaitGroup
}

// Open opens what the fleet of the broker shares, reads it, and follows it until
// Close. The context bounds the opening only.
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
	}
	var err error
	if s.limits, err = b.Bucket(ctx, jetstream.KeyValueConfig{Bucket: bucketLimits, Description: "skopeo-worker: what registries allow"}); err != nil {
		return nil, err
	}
	if s.closures, err = b.Bucket(ctx, jetstream.KeyValueConfig{Bucket: bucketClosed, Description: "skopeo-worker: registries that limit requests or are away", TTL: maxClosure}); err != nil {
		return nil, err
	}
	if s.pace, err = s.openPace(ctx); err != nil {
		return nil, err
	}
	// Not every server of a cluster knows yet what another worker has just created.
	for end := time.Now().Add(listTimeout); ; time.Sleep(relistRetry / 10) {
		if err = s.relist(ctx); !errors.Is(err, jetstream.ErrStreamNotFound) || time.Now().After(end) {
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

// Close ends following. What the store has told stays true for a while only.
func (s *Store) Close() {
	s.stop()
	s.running.Wait()
}

// Now is the time by the broker's clock, late by at most one round trip.
func (s *Store) Now() time.Time { return s.clock.now() }

// follow keeps the view up to date until the store is closed.
func (s *Store) follow(limits, closures jetstream.KeyWatcher) {
	connected := s.b.Conn.StatusChanged(nats.CONNECTED)
	defer s.b.Conn.RemoveStatusListener(connected)
	relist := time.NewTimer(relistInterval)
	defer relist.Stop()
	for {
		var entry jetstream.KeyValueEntry
		var ok bool
		select {
		case <-s.life.Done():
			return
		case entry, ok = <-updates(limits):
			if !ok {
				limits = nil
			}
		case entry, ok = <-updates(closures):
			if !ok {
				closures = nil
			}
		case <-connected:
			// A broker that was restarted has forgotten its watches, which they find
			// out after some seconds only.
			stop(limits)
			stop(closures)
			limits, closures = nil, nil
			relist.Reset(0)
		case <-relist.C:
			next := relistInterval
			if err := s.relist(s.life); err != nil {
				s.log.Debug("reading the shared budget again", "error", err)
				next = relistRetry
			}
			if limits == nil {
				limits = s.watch(s.limits)
			}
			if closures == nil {
				closures = s.watch(s.closures)
			}
			relist.Reset(next)
		}
		if entry != nil {
			s.hear(entry)
		}
	}
}

// watch tells what is in the bucket and what changes from now on. It returns nil
// where the broker does not answer.
func (s *Store) watch(kv jetstream.KeyValue) jetstream.KeyWatcher {
	w, err := kv.WatchAll(s.life)
	if err != nil {
		s.log.Debug("following the shared budget", "bucket", kv.Bucket(), "error", err)
		return nil
	}
	return w
}

// updates is what a watch tells; nothing, where there is none.
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

// relist reads the broker's clock and both buckets, and has every window's
// configuration checked again before its next token.
func (s *Store) relist(ctx context.Context) error {
	info, err := s.pace.Info(ctx)
	if err != nil {
		return fmt.Errorf("asking the broker for the time: %w", err)
	}
	s.clock.set(info.TimeStamp)
	for _, kv := range []jetstream.KeyValue{s.limits, s.closures} {
		if err := s.list(ctx, kv); err != nil {
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

// CatchUp reads what this process has not heard of yet, so that whatever was told
// before counts from now on. A worker that receives a chunk catches up with the
// planner that has published it. It asks the broker twice, and reads only where
// there is something new.
func (s *Store) CatchUp(ctx context.Context) error {
	for _, kv := range []jetstream.KeyValue{s.limits, s.closures} {
		last, err := lastOf(ctx, kv)
		if err != nil {
			return err
		}
		if last <= s.heard(kv.Bucket()) {
			continue
		}
		if err := s.list(ctx, kv); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) heard(bucket string) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.view.heard[bucket]
}

// list reads the bucket. In a cluster a replica that is behind may be the one that
// tells: all that the leader has by now is waited for.
func (s *Store) list(ctx context.Context, kv jetstream.KeyValue) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	last, err := lastOf(ctx, kv)
	if err != nil {
		return err
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("reading bucket %s: %w", kv.Bucket(), err)
	}
	defer func() { _ = w.Stop() }()
	for listed := false; !listed || s.heard(kv.Bucket()) < last; {
		select {
		case <-ctx.Done():
			return fmt.Errorf("reading bucket %s: %w", kv.Bucket(), context.Cause(ctx))
		case entry, ok := <-w.Updates():
			if !ok {
				return fmt.Errorf("reading bucket %s: %w", kv.Bucket(), broker.ErrUnreachable)
			}
			if listed = listed || entry == nil; entry != nil {
				s.hear(entry)
			}
		}
	}
	return nil
}

// lastOf is the revision of the bucket's last entry, as its leader knows it; 0 where
// it is empty.
func lastOf(ctx context.Context, kv jetstream.KeyValue) (uint64, error) {
	status, err := kv.Status(ctx)
	if err != nil {
		return 0, fmt.Errorf("asking for bucket %s: %w", kv.Bucket(), err)
	}
	if bucket, ok := status.(*jetstream.KeyValueBucketStatus); ok && bucket.StreamInfo().State.Msgs > 0 {
		return bucket.StreamInfo().State.LastSeq, nil
	}
	return 0, nil
}

// listTimeout bounds the reading of a bucket, which holds some dozens of entries.
const listTimeout = 10 * time.Second
