package budget

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzParseQuota: whatever the headers say, a quota makes sense.
func FuzzParseQuota(f *testing.F) {
	f.Fuzz(func(t *testing.T, limit, remaining string) {
		q, ok := ParseQuota(http.Header{http.CanonicalHeaderKey(headerLimit): {limit}, http.CanonicalHeaderKey(headerRemaining): {remaining}})
		if !ok {
			require.Zero(t, q)
			return
		}
		require.True(t, q.Limit.valid())
		require.GreaterOrEqual(t, q.Remaining, 0)
		require.LessOrEqual(t, q.Remaining, q.Limit.Requests)
	})
}

// FuzzParseLimits: RATE_LIMITS holds what makes sense, for registries that can be.
func FuzzParseLimits(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		limits, err := ParseLimits(text)
		if err != nil {
			require.Nil(t, limits)
			return
		}
		for registry, limit := range limits {
			require.NotEmpty(t, registry)
			require.True(t, limit.valid(), "%s=%v", registry, limit)
		}
	})
}
