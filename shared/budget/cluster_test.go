package budget

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestNeverOverTheLimitInACluster: a fleet takes every token that it gets, while the leader of its
// window steps down, is stopped, and comes back.
func TestNeverOverTheLimitInACluster(t *testing.T) {
	cluster := brokertest.StartCluster(t)
	var stores []*Store
	for range 4 {
		stores = append(stores, opened(t, brokertest.Open(t, cluster.Config()), 0))
	}
	limit := Limit{20, time.Second}
	require.NoError(t, stores[0].SetLimits(t.Context(), "default", map[string]Limit{registry: limit}))
	for _, s := range stores {
		require.NoError(t, s.CatchUp(t.Context()))
	}
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
	leader.Stop()
	spends(21)
	leader.Restart()
	cluster.Settle(name)
	spends(21)
	cancel()
	workers.Wait()
	require.Zero(t, r.refused)
}

// TestReservationWithoutALeader: requests wait while the broker elects a leader for the reservations.
// They do not fail, because their images may have been pulled already.
func TestReservationWithoutALeader(t *testing.T) {
	cluster := brokertest.StartCluster(t)
	s := opened(t, brokertest.Open(t, cluster.Config()), 0)
	for range 2 {
		require.NoError(t, s.Pace(t.Context(), quay, Tags))
		leader := cluster.Leader(streamPace)
		leader.Stop()
		require.NoError(t, s.Pace(t.Context(), quay, Tags))
		leader.Restart()
		cluster.Settle(streamPace)
	}
}
