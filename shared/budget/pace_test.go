package budget

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// bucket is a registry that limits requests by a token bucket.
type bucket struct {
	mu         sync.Mutex
	rate, size float64
	tokens     float64
	last       time.Time
	refused    int
	answered   int
}

func (b *bucket) request() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.tokens = min(b.size, b.tokens+now.Sub(b.last).Seconds()*b.rate)
	b.last = now
	if b.tokens < 1 {
		b.refused++
		return
	}
	b.tokens--
	b.answered++
}

// paced sends n requests, each of a worker that comes back when it is told to.
func paced(t *testing.T, stores []*Store, n int, kind Kind, r *bucket) {
	var workers sync.WaitGroup
	for i := range n {
		s := stores[i%len(stores)]
		workers.Go(func() {
			for {
				err := s.Pace(t.Context(), quay, kind)
				var spent *SpentError
				if errors.As(err, &spent) {
					until(t.Context(), s, spent.Slot)
					continue
				}
				if err != nil {
					t.Error(err)
				}
				r.request()
				return
			}
		})
	}
	workers.Wait()
}

func TestRequestsArePacedFleetWide(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	stores := fleet(t, b, 8)
	// Few in the bucket: a request may be held up by no more than two intervals.
	r := &bucket{rate: 5, size: 3}
	start := time.Now()
	paced(t, stores, 24, API, r)
	require.Zero(t, r.refused)
	require.Equal(t, 24, r.answered)
	require.Less(t, time.Since(start), 10*time.Second, "24 requests take 5.1 s")

	many := &bucket{rate: 50, size: 10}
	paced(t, stores, 100, Manifest, many)
	require.Zero(t, many.refused)
}

func TestPaceKeepsNobodyForLong(t *testing.T) {
	t.Parallel()
	stores := fleet(t, brokertest.Embedded(t), 2)
	ctx, cancel := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	for range 14 { // 3 s at 4.5 a second
		workers.Go(func() { _ = stores[0].Pace(ctx, quay, Tags) })
	}
	require.Eventually(t, func() bool {
		var spent *SpentError
		slot, err := stores[1].lane(quay, Tags).free(t.Context(), stores[1])
		if err != nil || slot.Before(stores[1].Now().Add(maxWait)) {
			return false
		}
		require.ErrorAs(t, stores[1].Pace(t.Context(), quay, Tags), &spent)
		require.Equal(t, quay, spent.Registry)
		require.WithinDuration(t, slot, spent.Slot, time.Second)
		return true
	}, patience, tick)
	require.NoError(t, stores[1].Pace(t.Context(), quay, API), "kinds are paced apart")
	cancel()
	workers.Wait()
}

func TestReservationsFollowEachOther(t *testing.T) {
	stored := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := reservation{After: stored.Add(time.Second), Count: 3, Every: time.Second}
	require.Equal(t, stored.Add(time.Second), r.start(stored))
	require.Equal(t, stored.Add(4*time.Second), r.end(stored))
	require.Equal(t, stored.Add(time.Minute), r.start(stored.Add(time.Minute)), "nobody came for a while")
	back := stored.Add(-time.Hour)
	require.Equal(t, back, r.start(back), "the broker's clock was set back")
}
