package budget

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

func call(s *Store) Call { return Call{Registry: registry, Kind: Pull, Started: s.clock.local()} }

// atBroker returns the closure of a registry that is stored at the broker.
func atBroker(t *testing.T, s *Store, registry string) (c closure, err error) {
	t.Helper()
	err = s.updateClosure(t.Context(), registry, func(last closure) (closure, bool, error) {
		c = last
		return last, false, nil
	})
	return c, err
}

func closed(s *Store) bool {
	_, _, closed := s.Closed(registry)
	return closed
}

func TestClosedForTheFleet(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	stores := fleet(t, b, 5)
	require.NoError(t, stores[0].Refused(t.Context(), call(stores[0]), 5*time.Second, "pull rate limit"))
	require.True(t, closed(stores[0]), "who was refused knows at once")
	want, _, _ := stores[0].Closed(registry)
	for _, s := range append(stores, opened(t, b, 3*time.Hour)) {
		require.Eventually(t, func() bool { return closed(s) }, patience, tick)
		until, reason, _ := s.Closed(registry)
		require.Equal(t, "pull rate limit", reason)
		require.WithinDuration(t, want, until, time.Second)
		_, err := s.Take(t.Context(), "", registry, "")
		spent := requireSpent(t, err)
		require.Equal(t, until, spent.Slot)
		require.Equal(t, "pull rate limit", spent.Reason)
		requireSpent(t, s.Pace(t.Context(), registry, Tags))
		allowed, err := s.Allowance(t.Context(), registry, "", Limit{})
		require.NoError(t, err)
		require.Equal(t, until, allowed.Open)
		_, _, other := s.Closed("quay.io")
		require.False(t, other)
	}
	rows, err := stores[1].Standings(t.Context())
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.Equal(t, "pull rate limit", rows[0].Reason)
	require.WithinDuration(t, want, rows[0].ClosedUntil, time.Second)
	require.Equal(t, rows[0].ClosedUntil, rows[0].NextSlot)
	// All workers reopen it at the same time, although their clocks are minutes apart.
	for _, s := range stores {
		require.Eventually(t, func() bool { return !closed(s) }, patience, tick)
		require.Greater(t, s.Now().Sub(want), -time.Second)
	}
}

func TestClosedWhileAway(t *testing.T) {
	t.Parallel()
	server := brokertest.Start(t)
	s := opened(t, brokertest.Open(t, server.Config()), 0)
	other := opened(t, brokertest.Open(t, server.Config()), -time.Hour)
	read := s.clock.at.Load()
	server.Restart()
	// The store must receive changes as soon as it has reconnected and read everything again, not
	// only when its watch misses heartbeats, after 10 s.
	require.Eventually(t, func() bool { return s.clock.at.Load() != read && other.b.Conn.IsConnected() }, patience, tick)
	require.NoError(t, other.Refused(t.Context(), call(other), time.Hour, "no"))
	require.Eventually(t, func() bool { return closed(s) }, 3*time.Second, tick)
}

func TestRetryAfterIsCapped(t *testing.T) {
	t.Parallel()
	s := opened(t, brokertest.Embedded(t), 0)
	lasts := func() time.Duration {
		until, _, _ := s.Closed(registry)
		return until.Sub(s.Now())
	}
	require.NoError(t, s.Refused(t.Context(), call(s), -time.Hour, "no"))
	require.InDelta(t, 3, lasts().Seconds(), 1.1, "backoff, where it makes no sense")
	require.NoError(t, s.Refused(t.Context(), call(s), time.Minute, "no"))
	require.InDelta(t, 60, lasts().Seconds(), 1, "a longer time counts")
	require.NoError(t, s.Refused(t.Context(), call(s), time.Second, "no"))
	require.InDelta(t, 60, lasts().Seconds(), 1, "a shorter one does not")
	require.NoError(t, s.Refused(t.Context(), call(s), 365*24*time.Hour, "no"))
	require.InDelta(t, 3600, lasts().Seconds(), 1)
}

func TestBackoffGrows(t *testing.T) {
	longest := func(d time.Duration) time.Duration { return d }
	shortest := func(time.Duration) time.Duration { return 0 }
	for count, ceiling := range map[int]time.Duration{1: 4 * time.Second, 2: 8 * time.Second, 5: 64 * time.Second, 9: maxBackoff, 1000: maxBackoff} {
		require.Equal(t, ceiling, backoff(count, maxBackoff, longest))
		require.Equal(t, minBackoff, backoff(count, maxBackoff, shortest))
	}
}

// TestBackoffOfTheFleet: repeated refusals close the registry for longer. The test moves the
// workers' clocks instead of waiting.
func TestBackoffOfTheFleet(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	clock := &movable{}
	one, two := openedAt(t, b, clock.now), openedAt(t, b, clock.now)
	longest := func(d time.Duration) time.Duration { return d }
	one.jitter, two.jitter = longest, longest
	reopen := func(s *Store) {
		until, _, closed := s.Closed(registry)
		require.True(t, closed)
		clock.move(until.Sub(s.Now()) + time.Second)
	}
	last := func() closure {
		c, err := atBroker(t, one, registry)
		require.NoError(t, err)
		return c
	}
	// The broker dates entries by its own clock, which the test does not move. So the test compares
	// durations, and counts refusals.
	inFlight := call(two)
	var since time.Time
	for i, want := range []time.Duration{4 * time.Second, 8 * time.Second, 16 * time.Second} {
		refused := []*Store{one, two}[i%2]
		require.NoError(t, refused.Refused(t.Context(), call(refused), 0, fmt.Sprint("refusal ", i)))
		require.Equal(t, want, last().Duration)
		if since.IsZero() {
			since = last().First
		}
		require.NotZero(t, since)
		require.Equal(t, since, last().First, "it has not allowed anything since")
		rows, err := one.Standings(t.Context())
		require.NoError(t, err)
		require.Equal(t, since, rows[0].RefusedSince)
		// Seven other requests were under way, and are refused, too.
		for range 7 {
			require.NoError(t, two.Refused(t.Context(), inFlight, 0, "in flight"))
		}
		require.Equal(t, i+1, last().Count)
		require.Eventually(t, func() bool { return closed(one) && closed(two) }, patience, tick)
		reopen(refused)
		require.NoError(t, two.Refused(t.Context(), inFlight, 0, "late"))
		require.Equal(t, i+1, last().Count, "what started before says nothing new")
	}
	one.Succeeded(inFlight)
	one.Succeeded(Call{Registry: registry, Kind: Manifest, Started: one.clock.local()})
	require.Equal(t, 3, last().Count, "neither does its success, nor that of another kind")
	one.Succeeded(call(one))
	require.Eventually(t, func() bool { return last().Count == 0 }, patience, tick)
	require.Eventually(t, func() bool { c, _ := two.lastClosure(registry); return c.Count == 0 }, patience, tick)
	require.NoError(t, two.Refused(t.Context(), call(two), 0, "again"))
	require.Equal(t, 4*time.Second, last().Duration)
	require.True(t, last().First.After(since))
	since = last().First
	clock.move(time.Minute + reopenedFor)
	require.NoError(t, two.Refused(t.Context(), call(two), 0, "after it was open for a while"))
	require.True(t, last().First.After(since))
}
