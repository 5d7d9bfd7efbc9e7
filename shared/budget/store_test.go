package budget

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
)

const (
	registry = "registry.example:5000"
	// patience bounds every wait of a test.
	patience = 20 * time.Second
	// tick is how often it looks.
	tick = 5 * time.Millisecond
)

// opened returns the store of a worker whose clock is wrong by skew.
func opened(t *testing.T, b *broker.Broker, skew time.Duration) *Store {
	t.Helper()
	return openedAt(t, b, func() time.Time { return time.Now().Add(skew) })
}

func openedAt(t *testing.T, b *broker.Broker, now func() time.Time) *Store {
	t.Helper()
	s, err := open(t.Context(), b, slog.New(slog.DiscardHandler), now)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// movable is a clock that tests can move forward.
type movable struct{ ahead atomic.Int64 }

func (m *movable) now() time.Time       { return time.Now().Add(time.Duration(m.ahead.Load())) }
func (m *movable) move(d time.Duration) { m.ahead.Add(int64(d)) }

// fleet returns the stores of n workers whose clocks are minutes apart.
func fleet(t *testing.T, b *broker.Broker, n int) []*Store {
	t.Helper()
	var stores []*Store
	for i := range n {
		stores = append(stores, opened(t, b, time.Duration(i-n/2)*7*time.Minute))
	}
	return stores
}

// sliding is a registry that enforces exactly a limit in any window.
type sliding struct {
	mu      sync.Mutex
	limit   Limit
	times   []time.Time
	refused int
}

// request counts a request, or refuses it.
func (r *sliding) request() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for len(r.times) > 0 && now.Sub(r.times[0]) >= r.limit.Window {
		r.times = r.times[1:]
	}
	if len(r.times) >= r.limit.Requests {
		r.refused++
		return false
	}
	r.times = append(r.times, now)
	return true
}

func (r *sliding) set(l Limit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit = l
}

// until waits for a time by the broker's clock, as a schedule does.
func until(ctx context.Context, s *Store, at time.Time) {
	timer := time.NewTimer(at.Sub(s.Now()))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func requireSpent(t *testing.T, err error) *SpentError {
	t.Helper()
	var spent *SpentError
	require.ErrorAs(t, err, &spent)
	require.Equal(t, registry, spent.Registry)
	return spent
}

func TestClockIsTheBrokers(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	for _, skew := range []time.Duration{0, 20 * time.Minute, -20 * time.Minute} {
		s := opened(t, b, skew)
		// The broker is in this process.
		require.WithinDuration(t, time.Now(), s.Now(), time.Second)
	}
}

func TestBrokerTroubleIsNoPermission(t *testing.T) {
	t.Parallel()
	server := brokertest.Start(t)
	s := opened(t, brokertest.Open(t, server.Config()), 0)
	require.NoError(t, s.SetLimits(t.Context(), "default", map[string]Limit{registry: {5, time.Minute}}))
	_, err := s.Take(t.Context(), "", registry, "")
	require.NoError(t, err)
	server.Stop()

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = s.Take(ctx, "", registry, "")
	require.Error(t, err)
	require.ErrorContains(t, err, registry)
	require.False(t, errors.As(err, new(*SpentError)))
	require.Error(t, s.Pace(ctx, quay, Tags))
	require.NoError(t, s.Pace(ctx, registry, Tags), "what has no limit needs no broker")
}
