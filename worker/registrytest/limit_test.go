package registrytest_test

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/stretchr/testify/require"
)

func TestPullLimitSlides(t *testing.T) {
	var seconds atomic.Int64
	clock := func() time.Time { return time.Unix(seconds.Load(), 0) }
	r := registrytest.New(t, registrytest.WithPullLimit(3, 6*time.Hour), registrytest.WithClock(clock))
	_, err := r.PushImage("app", "1", registrytest.Image{})
	require.NoError(t, err)
	const path, window = "/v2/app/manifests/1", int64(6 * 3600)

	pull := func(at int64, status int, remaining string) string {
		t.Helper()
		seconds.Store(at)
		res, body := get(t, r, path)
		require.Equal(t, status, res.StatusCode)
		require.Equal(t, "3;w=21600", res.Header.Get("ratelimit-limit"))
		require.Equal(t, remaining+";w=21600", res.Header.Get("ratelimit-remaining"))
		return body
	}
	pull(0, http.StatusOK, "2")
	pull(10, http.StatusOK, "1")
	res, err := do(t, r, http.MethodHead, path)
	require.NoError(t, err)
	require.Equal(t, "1;w=21600", res.Header.Get("ratelimit-remaining"), "a HEAD is free")
	r.SpendPulls(1)
	body := pull(window-1, http.StatusTooManyRequests, "0")
	require.Contains(t, body, `"code":"TOOMANYREQUESTS"`)
	res, err = do(t, r, http.MethodHead, path)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	pull(window, http.StatusOK, "0") // the pull of second 0 has left the window
	pull(window+9, http.StatusTooManyRequests, "0")
	pull(window+10, http.StatusOK, "1") // two have: SpendPulls was at second 10
}

func TestRequestLimitAnswersLikeQuay(t *testing.T) {
	const never = 1e-9 // requests a second
	r := registrytest.New(t, registrytest.WithRequestLimit(never, 2, registrytest.KindTags))
	_, err := r.PushImage("app", "1", registrytest.Image{})
	require.NoError(t, err)
	for _, want := range []int{http.StatusOK, http.StatusOK, http.StatusTooManyRequests} {
		res, body := get(t, r, "/v2/app/tags/list")
		require.Equal(t, want, res.StatusCode)
		if want == http.StatusTooManyRequests {
			require.Empty(t, res.Header.Get("Retry-After"))
			require.Contains(t, body, "<html>")
		}
	}
	res, _ := get(t, r, "/v2/app/manifests/1")
	require.Equal(t, http.StatusOK, res.StatusCode, "another kind")
}

func TestLatency(t *testing.T) {
	const latency = 50 * time.Millisecond
	r := registrytest.New(t, registrytest.WithLatency(latency))
	start := time.Now()
	get(t, r, "/v2/")
	require.GreaterOrEqual(t, time.Since(start), latency)
}
