package budget

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestSlackGrows: if requests are late repeatedly, tokens are held for longer, for a while. No
// token lives shorter than its request may take.
func TestSlackGrows(t *testing.T) {
	t.Parallel()
	b, clock := brokertest.Embedded(t), &movable{}
	one, two := openedAt(t, b, clock.now), openedAt(t, b, clock.now)
	limit := Limit{100, 10 * time.Second}
	require.NoError(t, one.SetLimits(t.Context(), "default", map[string]Limit{registry: limit}))
	take := func(s *Store) Token {
		t.Helper()
		require.NoError(t, s.CatchUp(t.Context()))
		token, err := s.Take(t.Context(), "", registry, "")
		require.NoError(t, err)
		info, err := token.stream.Info(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, info.Config.MaxAge, limit.Window+token.slack)
		return token
	}
	late := func(tokens ...Token) {
		t.Helper()
		for _, token := range tokens {
			require.NoError(t, token.Late(t.Context()))
		}
	}
	first := take(one)
	late(first, first)
	first.InTime()
	late(first, first)
	require.Equal(t, time.Second, take(one).slack, "not in a row")
	old := take(two)
	late(first)
	require.Equal(t, 2*time.Second, take(one).slack)
	require.Equal(t, time.Second, take(two).slack, "it has not heard of it, and is stricter")
	late(old, old, old)
	require.Equal(t, 2*time.Second, take(two).slack, "once for the same reason")
	for range 10 {
		token := take(one)
		late(token, token, token)
	}
	require.Equal(t, maxSlack, take(one).slack)

	clock.move(looseFor)
	held := func() time.Duration {
		for _, s := range []*Store{one, two} {
			s.window(registry, "").forget()
		}
		info, err := take(one).stream.Info(t.Context())
		require.NoError(t, err)
		return info.Config.MaxAge
	}
	require.Equal(t, limit.Window+maxSlack, held(), "for those that were taken before")
	require.Equal(t, time.Second, take(one).slack)
	clock.move(limit.Window + maxSlack)
	require.Equal(t, limit.Window+time.Second, held())
}
