package budget

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestCluster: the windows are on three servers.
func TestCluster(t *testing.T) {
	t.Parallel()
	cluster := brokertest.StartCluster(t)
	var stores []*Store
	for range 4 {
		stores = append(stores, opened(t, brokertest.Open(t, cluster.Config()), 0))
	}
	set := func(limit Limit) {
		require.NoError(t, stores[0].SetLimits(t.Context(), "default", map[string]Limit{registry: limit}))
		for _, s := range stores {
			require.NoError(t, s.CatchUp(t.Context()))
		}
	}
	set(Limit{200, time.Hour})
	takeAll(t, cluster, stores, 200)
	short := Limit{20, time.Second}
	set(short)
	require.NoError(t, stores[0].b.JS.DeleteStream(t.Context(), stores[0].window(registry, "").name))
	for _, s := range stores {
		s.window(registry, "").forget()
	}
	neverOver(t, cluster, stores, short)
}

// takeAll takes more tokens than there are, while the leader changes: a token whose
// answer is lost is spent, and none is given twice.
func takeAll(t *testing.T, cluster *brokertest.Cluster, stores []*Store, limit int64) {
	t.Helper()
	_, err := stores[0].Take(t.Context(), registry, "") // makes the stream
	require.NoError(t, err)
	name := stores[0].window(registry, "").name
	var taken atomic.Int64
	taken.Store(1)
	var workers sync.WaitGroup
	for i := range 16 {
		workers.Go(func() {
			for t.Context().Err() == nil {
				_, err := stores[i%len(stores)].Take(t.Context(), registry, "")
				var spent *SpentError
				switch {
				case err == nil:
					taken.Add(1)
				case errors.As(err, &spent):
					return
				}
			}
		})
	}
	for _, share := range []int64{limit / 4, limit / 2} {
		require.Eventually(t, func() bool { return taken.Load() >= share }, 3*patience, time.Millisecond)
		cluster.StepDown(name)
	}
	workers.Wait()
	require.LessOrEqual(t, taken.Load(), limit)
	require.Greater(t, taken.Load(), limit/2)
}

// neverOver has a fleet take whatever it gets, while the leader steps down, is
// stopped, and comes back.
func neverOver(t *testing.T, cluster *brokertest.Cluster, stores []*Store, limit Limit) {
	t.Helper()
	r := &sliding{limit: limit}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var spent atomic.Int64
	var workers sync.WaitGroup
	for i := range 16 {
		workers.Go(func() { spender(ctx, stores[i%len(stores)], r, &spent) })
	}
	spends := func(n int64) {
		t.Helper()
		n += spent.Load()
		require.Eventually(t, func() bool { return spent.Load() >= n }, 3*patience, tick)
	}
	name := stores[0].window(registry, "").name
	spends(21)
	for range 2 {
		cluster.StepDown(name)
		spends(21)
	}
	leader := cluster.Leader(name)
	require.NotNil(t, leader)
	leader.Stop()
	spends(21)
	leader.Restart()
	cluster.Settle(name)
	spends(21)
	cancel()
	workers.Wait()
	require.Zero(t, r.refused)
	info, err := stores[0].streams(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, info[0].Config.Replicas)
	require.LessOrEqual(t, int(info[0].State.Msgs), limit.Requests)
}
