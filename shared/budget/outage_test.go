package budget

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// outage returns an outage that has just been noticed at an activity.
func outage(s *Store, a Activity) Outage {
	return Outage{Registry: registry, Activity: a, Reason: "503", Started: s.clock.local()}
}

// isAway waits until the store knows whether the registry is away.
func isAway(t *testing.T, s *Store, want bool) {
	t.Helper()
	require.Eventually(t, func() bool {
		away := s.IsAway(registry)
		return (away != nil) == want
	}, patience, tick)
}

// TestAwayUntilAProbe: a registry that is away gets no requests, even after its closure ends,
// except those of one worker. The result of its probe counts for all workers.
func TestAwayUntilAProbe(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	clock := &movable{}
	one, two := openedAt(t, b, clock.now), openedAt(t, b, clock.now)
	_, err := one.Probe(t.Context(), registry)
	require.NoError(t, err, "it is open")

	before := outage(two, Push)
	require.NoError(t, one.Away(t.Context(), outage(one, Push)))
	isAway(t, two, true)
	for _, s := range []*Store{one, two} {
		_, err := s.Probe(t.Context(), registry)
		require.Equal(t, "503", requireSpent(t, err).Reason)
		requireSpent(t, s.Pace(t.Context(), registry, Tags))
	}
	first, err := atBroker(t, one, registry)
	require.NoError(t, err)
	require.NoError(t, two.Away(t.Context(), before), "it started before and says nothing new")

	clock.move(first.Duration + time.Second)
	activity, err := two.Probe(t.Context(), registry)
	require.NoError(t, err)
	require.Equal(t, Push, activity)
	_, err = one.Probe(t.Context(), registry)
	spent := requireSpent(t, err)
	require.LessOrEqual(t, spent.Slot.Sub(one.Now()), probeLease)
	activity, err = two.Probe(t.Context(), registry)
	require.NoError(t, err, "the permission stays")
	require.Equal(t, Push, activity)

	// The probe fails: the closure grows, and keeps its reason.
	longest := func(d time.Duration) time.Duration { return d }
	two.jitter = longest
	require.NoError(t, two.Away(t.Context(), outage(two, Push)))
	second, err := atBroker(t, one, registry)
	require.NoError(t, err)
	require.Equal(t, 2, second.Count)
	require.Equal(t, 8*time.Second, second.Duration)
	require.WithinDuration(t, first.Since, second.Since, 0)

	// The next prober dies, so another one probes when its lease ends.
	clock.move(second.Duration + time.Second)
	_, err = one.Probe(t.Context(), registry)
	require.NoError(t, err)
	clock.move(probeLease + time.Second)
	_, err = two.Probe(t.Context(), registry)
	require.NoError(t, err)

	two.Back(registry, Look, clock.now())
	isAway(t, two, true) // the registry was closed for pushes, not for looks
	two.Back(registry, Push, clock.now())
	isAway(t, two, false)
	isAway(t, one, false)
	_, err = one.Probe(t.Context(), registry)
	require.NoError(t, err)
}

// TestAwayIsReported: the standings have the time at which the outage began, even while no worker
// has a reason to probe.
func TestAwayIsReported(t *testing.T) {
	t.Parallel()
	clock := &movable{}
	s := openedAt(t, brokertest.Embedded(t), clock.now)
	require.NoError(t, s.Away(t.Context(), outage(s, Answer)))
	for range 2 {
		rows, err := s.Standings(t.Context())
		require.NoError(t, err)
		require.Len(t, rows, 1)
		require.Equal(t, registry, rows[0].Registry)
		require.Equal(t, "503", rows[0].Reason)
		require.NotZero(t, rows[0].ClosedSince)
		require.NotZero(t, rows[0].ClosedUntil)
		clock.move(10 * time.Minute)
	}
	// A success of any activity ends it, if the request started after the closure.
	s.Back(registry, Fetch, clock.now())
	rows, err := s.Standings(t.Context())
	require.NoError(t, err)
	require.Empty(t, rows)
}

// TestLimitWhileAway: a 429 extends an outage and does not end it, and an outage does not end the
// closure after a 429.
func TestLimitWhileAway(t *testing.T) {
	t.Parallel()
	clock := &movable{}
	s := openedAt(t, brokertest.Embedded(t), clock.now)
	// The wait that the registry has requested is kept.
	require.NoError(t, s.Refused(t.Context(), Call{Registry: "quay.io", Kind: Manifest, Started: clock.now()}, time.Hour, "too many"))
	require.NoError(t, s.Away(t.Context(), Outage{Registry: "quay.io", Activity: Look, Reason: "503", Started: clock.now()}))
	until, _, _ := s.Closed("quay.io")
	require.InDelta(t, 3600, until.Sub(s.Now()).Seconds(), 1)

	require.NoError(t, s.Away(t.Context(), outage(s, Push)))
	require.NoError(t, s.Refused(t.Context(), Call{Registry: registry, Kind: Manifest, Started: clock.now()}, time.Minute, "too many"))
	until, _, closed := s.Closed(registry)
	require.True(t, closed)
	require.InDelta(t, 60, until.Sub(s.Now()).Seconds(), 1)
	clock.move(time.Minute + time.Second)
	s.Succeeded(Call{Registry: registry, Kind: Manifest, Started: clock.now()})
	activity, err := s.Probe(t.Context(), registry)
	require.NoError(t, err)
	require.Equal(t, Push, activity)
}

// TestAwayIsForgotten: once the broker has forgotten an outage, so have all workers.
func TestAwayIsForgotten(t *testing.T) {
	t.Parallel()
	s := opened(t, brokertest.Embedded(t), 0)
	require.NoError(t, s.Away(t.Context(), outage(s, Look)))
	require.NoError(t, s.closures.Purge(t.Context(), token(registry)))
	s.mu.Lock()
	c := s.view.closed[token(registry)]
	c.Count, c.Since, c.at, c.Duration = 1, s.Now(), s.Now(), 0 // as if the watch had missed the end
	s.view.closed[token(registry)] = c
	s.mu.Unlock()
	activity, err := s.Probe(t.Context(), registry)
	require.NoError(t, err)
	require.Empty(t, activity)
	isAway(t, s, false)
}

// TestOneProbes: of many concurrent callers, one may probe.
func TestOneProbes(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	clock := &movable{}
	var stores []*Store
	for range 5 {
		stores = append(stores, openedAt(t, b, clock.now))
	}
	require.NoError(t, stores[0].Away(t.Context(), outage(stores[0], Answer)))
	for _, s := range stores {
		isAway(t, s, true)
	}
	c, err := atBroker(t, stores[0], registry)
	require.NoError(t, err)
	clock.move(c.Duration + time.Second) // not more, because the broker dates entries by its own clock
	asked := make(chan error, len(stores))
	for _, s := range stores {
		go func() {
			_, err := s.Probe(t.Context(), registry)
			asked <- err
		}()
	}
	allowed := 0
	for range stores {
		if err := <-asked; err == nil {
			allowed++
		} else {
			requireSpent(t, err)
		}
	}
	require.Equal(t, 1, allowed)
}

// TestProberIsNotClosed: the prober may send requests, even if the broker's clock is ahead of its
// own.
func TestProberIsNotClosed(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	clock := &movable{}
	one, two := openedAt(t, b, clock.now), openedAt(t, b, clock.now)
	require.NoError(t, one.Away(t.Context(), outage(one, Push)))
	isAway(t, two, true)
	c, err := atBroker(t, one, registry)
	require.NoError(t, err)
	clock.move(c.Duration + time.Second)
	_, err = two.Probe(t.Context(), registry)
	require.NoError(t, err)
	clock.move(-c.Duration - 2*time.Second)
	require.NoError(t, two.Pace(t.Context(), registry, Tags))
	two.Back(registry, Push, clock.now())
	isAway(t, one, false)
}

// TestCutOff: if another process has ended the outage, the process that began it does not
// close the registry again for the same reason soon after.
func TestCutOff(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	clock := &movable{}
	one, two := openedAt(t, b, clock.now), openedAt(t, b, clock.now)
	back := func(closer, opener *Store) {
		require.NoError(t, closer.Away(t.Context(), outage(closer, Answer)))
		isAway(t, opener, true)
		c, err := atBroker(t, opener, registry)
		require.NoError(t, err)
		clock.move(c.Duration + time.Second)
		_, err = opener.Probe(t.Context(), registry)
		require.NoError(t, err)
		opener.Back(registry, Answer, clock.now())
		// The opener counts the registry as open before the broker has stored that.
		require.Eventually(t, func() bool {
			c, err := atBroker(t, opener, registry)
			return err == nil && c.Opener == opener.id
		}, patience, tick)
		isAway(t, closer, false)
		isAway(t, opener, false)
	}
	back(one, one) // a worker does not doubt its own report
	back(one, two)
	spent := requireSpent(t, one.Away(t.Context(), outage(one, Answer)))
	require.True(t, spent.CutOff)
	require.Nil(t, one.IsAway(registry))
	back(two, one) // what the others see counts
	require.True(t, requireSpent(t, two.Away(t.Context(), outage(two, Answer))).CutOff)
	clock.move(cutOffFor)
	require.NoError(t, two.Away(t.Context(), outage(two, Answer)), "that was long ago")
}
