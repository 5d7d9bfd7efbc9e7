package retryafter_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/retryafter"
)

// FuzzParse: the wait is neither negative nor longer than an hour.
func FuzzParse(f *testing.F) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value string) {
		wait := retryafter.Parse(value, now)
		require.GreaterOrEqual(t, wait, time.Duration(0))
		require.LessOrEqual(t, wait, retryafter.Longest)
		for _, name := range []string{"Retry-After", "X-Retry-After", "X-Ratelimit-Reset"} {
			require.Equal(t, wait, retryafter.In(http.Header{name: {value}}, now))
		}
	})
}
