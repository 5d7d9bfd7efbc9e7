package budget

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestMirrorNamesTakeTurns: one name has spent everything when another one starts. From then on,
// each gets an equal part of every window; a name that is alone gets all of it.
func TestMirrorNamesTakeTurns(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	clock := new(movable)
	greedy, modest := openedAt(t, b, clock.now), opened(t, b, time.Hour)
	const big, small = "big", "small"
	limit := Limit{5, time.Second}
	require.NoError(t, greedy.SetLimits(t.Context(), "big", map[string]Limit{registry: limit}))
	require.NoError(t, modest.CatchUp(t.Context()))
	all := func(s *Store, mirror string) (n int, refused *SpentError) {
		for {
			if _, err := s.Take(t.Context(), mirror, registry, ""); err != nil {
				return n, requireSpent(t, err)
			}
			n++
		}
	}
	n, spent := all(greedy, big)
	require.Equal(t, 5, n)
	require.Equal(t, "its budget of 5/1s is spent", spent.Reason)
	_, waits := all(modest, small)
	require.NoError(t, greedy.CatchUp(t.Context()))

	until(t.Context(), modest, waits.Slot)
	n, spent = all(greedy, big)
	require.LessOrEqual(t, n, 3, "what is free is for who waits")
	n, waits = all(modest, small)
	require.GreaterOrEqual(t, n, 2)
	until(t.Context(), modest, waits.Slot)

	require.Equal(t, "its budget of 5/1s is shared with another mirror, whose turn it is", spent.Reason)
	require.NoError(t, greedy.CatchUp(t.Context()))
	clock.move(time.Minute) // the other one does not come back
	until(t.Context(), modest, waits.Slot.Add(limit.Window+slack(limit.Window)+expiryDelay))
	n, _ = all(greedy, big)
	require.Equal(t, 5, n)
}

// TestTurnOfTwoPulls: a copy that needs two tokens gets both, even if the equal part of each mirror name is
// one.
func TestTurnOfTwoPulls(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	s := opened(t, b, 0)
	limit := Limit{2, time.Second}
	require.NoError(t, s.SetLimits(t.Context(), "default", map[string]Limit{registry: limit}))
	_, err := s.TakeForCopy(t.Context(), "one", registry, "", 2)
	require.NoError(t, err)
	for _, mirror := range []string{"two", "one", "two"} {
		_, err = s.TakeForCopy(t.Context(), mirror, registry, "", 2)
		until(t.Context(), s, requireSpent(t, err).Slot.Add(expiryDelay))
		require.NoError(t, s.CatchUp(t.Context()))
		tokens, err := s.TakeForCopy(t.Context(), mirror, registry, "", 2)
		require.NoError(t, err, mirror)
		require.Len(t, tokens, 2)
	}
}

// TestNobodyTakesTurnsAlone: workers of the same name, and other identities, do not take turns.
func TestNobodyTakesTurnsAlone(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	stores := fleet(t, b, 2)
	ctx := t.Context()
	require.NoError(t, stores[0].SetLimits(ctx, "default", map[string]Limit{registry: {2, time.Hour}}))
	for _, s := range stores {
		require.NoError(t, s.CatchUp(ctx))
		_, err := s.Take(ctx, "default", registry, "")
		require.NoError(t, err)
	}
	_, err := stores[0].Take(ctx, "default", registry, "")
	require.Equal(t, "its budget of 2/1h is spent", requireSpent(t, err).Reason)
	require.NoError(t, stores[1].CatchUp(ctx))
	_, err = stores[1].Take(ctx, "default", registry, "")
	require.Equal(t, "its budget of 2/1h is spent", requireSpent(t, err).Reason)
	_, err = stores[1].Take(ctx, "other", registry, "another account")
	require.NoError(t, err)
}

func TestSpread(t *testing.T) {
	for wait, want := range map[time.Duration]time.Duration{
		-time.Second: time.Second, 0: time.Second, 10 * time.Second: 2 * time.Second, 6 * time.Hour: time.Minute + time.Second,
	} {
		require.Equal(t, want, Spread(wait), wait)
	}
}
