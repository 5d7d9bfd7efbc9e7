package run

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/subject"
)

func TestClaimSweep(t *testing.T) {
	const (
		interval = time.Second
		workers  = 16
	)
	s, b := open(t)
	claims := func() int32 {
		var callers sync.WaitGroup
		callers.Add(workers)
		var claims atomic.Int32
		var group errgroup.Group
		for range workers {
			group.Go(func() error {
				one := &Store{kv: &together{KeyValue: s.kv, callers: &callers}, b: b}
				claimed, err := one.ClaimSweep(t.Context(), time.Now(), interval)
				if claimed {
					claims.Add(1)
				}
				return err
			})
		}
		require.NoError(t, group.Wait())
		return claims.Load()
	}
	require.EqualValues(t, 1, claims(), "the first ever")
	start := time.Now()
	require.Zero(t, claims())
	require.Eventually(t, func() bool { return time.Since(start) > interval }, patience, 10*time.Millisecond)
	require.EqualValues(t, 1, claims(), "the next one")
}

// together is a bucket whose callers all read before any of them writes.
type together struct {
	jetstream.KeyValue
	callers *sync.WaitGroup
	once    sync.Once
}

func (k *together) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	e, err := k.KeyValue.Get(ctx, key)
	k.once.Do(func() {
		k.callers.Done()
		k.callers.Wait()
	})
	return e, err
}

func TestOverdue(t *testing.T) {
	s, b := open(t)
	now := time.Now()
	r := Run{Name: name, ID: "r1", Chunks: 3, FirstDue: now.Add(-90 * time.Minute), Interval: time.Hour}
	require.NoError(t, s.Put(t.Context(), r))
	schedule := func(root, run, token string) string {
		a := subject.NewAddress(name, run, "quay.io", token)
		_, err := b.Publish(t.Context(), broker.Scheduled(root, a, now.Add(24*time.Hour), nil))
		require.NoError(t, err)
		return a.Under(root)
	}
	progress := func(token string, due time.Time) {
		require.NoError(t, s.Record(t.Context(), subject.NewAddress(name, "r1", "quay.io", token), Progress{State: Snoozed, Due: due}))
	}
	want := []string{
		schedule(subject.Plan, "r1", "1"),
		schedule(subject.Plan, "r1", "2"),
		schedule(subject.Plan, "r1", "2p1"),
		schedule(subject.Later, "r1", "1-5"),
		schedule(subject.Later, "r1", "1-6"), // the worker did not live to say when
		schedule(subject.Plan, "unknown", "1"),
	}
	progress("1-5", now.Add(-time.Minute))
	schedule(subject.Plan, "r1", "3")
	schedule(subject.Later, "r1", "1-7")
	progress("1-7", now.Add(time.Minute))

	got, err := s.Overdue(t.Context(), now)
	require.NoError(t, err)
	require.ElementsMatch(t, want, got)
}
