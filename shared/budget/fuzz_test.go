package budget

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzParseQuota: a parsed quota is plausible, whatever the headers are.
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

// FuzzParseLimits: parsed limits are plausible, and for registries that can exist.
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
