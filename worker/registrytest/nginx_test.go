package registrytest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestNginxCounts: a burst of n lets n+1 requests through at once, and then the rate. Kinds of
// a zone are counted together, each with its own burst, and keys are counted apart.
func TestNginxCounts(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	admitted := func(n *nginx, c counter, allowed requestRate, requests int) (count int) {
		for range requests {
			if n.admits(c, allowed, now) {
				count++
			}
		}
		return count
	}
	n := &nginx{excess: map[counter]*excess{}}
	one, two := counter{"heavy", false, "192.0.2.1"}, counter{"heavy", true, "1"}
	require.Equal(t, 11, admitted(n, one, quayManifest.http1, 20))
	require.Equal(t, 40, admitted(n, one, quayBlob.http1, 80), "as many as its burst is longer")
	require.Equal(t, 51, admitted(n, two, quayManifest.http2, 100))
	now = now.Add(time.Second)
	require.Equal(t, 10, admitted(n, one, quayManifest.http1, 20), "50 have been answered meanwhile")
	now = now.Add(time.Second / 50)
	require.Equal(t, 1, admitted(n, one, quayManifest.http1, 20))
}
