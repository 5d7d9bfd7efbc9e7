package budget

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/semaphore"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestReservationsAreFew: while a rate grows, requests that come one by one are reserved
// together.
func TestReservationsAreFew(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	s := opened(t, b, 0)
	exploring := line{registry, All, HTTP1}
	require.NoError(t, s.explore(t.Context(), exploring))
	s.Took(registry, latencyOfTests)
	const requests = 60
	for range requests {
		require.NoError(t, s.Pace(t.Context(), registry, Manifest))
	}
	next, err := b.Next(t.Context(), streamPace, s.lane(exploring).subject, 1)
	read, last := 0, reservation{}
	for ; err == nil; read++ {
		r, ok := readReservation(next)
		require.True(t, ok)
		require.LessOrEqual(t, r.Sent, last.Sent+r.Count)
		last = r
		next, err = b.Next(t.Context(), streamPace, next.Subject, next.Sequence+1)
	}
	require.Less(t, read, requests)
}

// TestLateSlots: requests that come later than their slots are as far apart as the slots. What
// is too late is not used, and does not raise the rate.
func TestLateSlots(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := &Store{clock: clock{local: func() time.Time { return now }}}
	const every, late = 10 * time.Millisecond, 25 * time.Millisecond
	l := &lane{turn: semaphore.NewWeighted(1), every: every, newest: reservation{Sent: 20}, stored: now}
	for i := range 20 {
		l.slots = append(l.slots, now.Add(time.Duration(i)*every-late))
	}
	take := func() time.Time {
		t.Helper()
		slot, err := l.slot(t.Context(), s, Rate{horizon: exploreHorizon}, now)
		require.NoError(t, err)
		return slot
	}
	require.Equal(t, now, take())
	require.Equal(t, now.Add(every), take())
	require.Zero(t, l.unused)
	sent := func() int { return l.sent(growing{since: now.Add(-time.Minute)}) }
	require.Equal(t, 20, sent())

	now = now.Add(slotLife) // the slots are every, 3*every … late
	require.Equal(t, now, take())
	require.Equal(t, now.Add(every), take())
	require.Equal(t, 1, l.unused)
	require.Equal(t, 19, sent())
}

func TestExpected(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := &Store{clock: clock{local: func() time.Time { return now }}}
	for passed, expected := range map[time.Duration]int64{
		0: 8, exploreHorizon / 2: 8, exploreHorizon: 4, 2 * exploreHorizon: 2, time.Minute: 0,
	} {
		l := &lane{used: 4, reserved: now.Add(-passed)}
		require.Equal(t, expected, l.expected(s, exploreHorizon), "%s ago", passed)
	}
}
