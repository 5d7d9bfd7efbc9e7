package registrytest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

func TestFaults(t *testing.T) {
	r := registrytest.New(t)
	_, err := r.PushImage("app", "1", registrytest.Image{})
	require.NoError(t, err)
	manifest, err := r.Manifest("app", "1")
	require.NoError(t, err)
	const path = "/v2/app/manifests/1"

	t.Run("status", func(t *testing.T) {
		r.Inject(registrytest.Fault{
			Match: registrytest.Kinds(registrytest.KindManifestGet), Times: 1,
			Status: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"7"}}, Body: "busy",
		})
		res, _ := get(t, r, "/v2/")
		require.Equal(t, http.StatusOK, res.StatusCode, "it does not match")
		res, body := get(t, r, path)
		require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
		require.Equal(t, "7", res.Header.Get("Retry-After"))
		require.Equal(t, "busy", body)
		res, _ = get(t, r, path)
		require.Equal(t, http.StatusOK, res.StatusCode, "once only")
	})
	t.Run("until removed", func(t *testing.T) {
		remove := r.Inject(registrytest.Fault{Status: http.StatusBadGateway})
		for range 3 {
			res, _ := get(t, r, path)
			require.Equal(t, http.StatusBadGateway, res.StatusCode)
		}
		remove()
		res, _ := get(t, r, path)
		require.Equal(t, http.StatusOK, res.StatusCode)
	})
	t.Run("reset", func(t *testing.T) {
		r.ResetRequests()
		defer r.Inject(registrytest.Fault{Reset: true})()
		_, err := do(t, r, http.MethodPut, path) // net/http would repeat a GET
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.Zero(t, r.Requests()[0].Status)
	})
	t.Run("truncated body", func(t *testing.T) {
		r.Inject(registrytest.Fault{Times: 1, TruncateBody: true})
		res, err := do(t, r, http.MethodGet, path)
		require.NoError(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.Equal(t, manifest[:len(manifest)/2], body)
		require.EqualValues(t, len(manifest), res.ContentLength)
	})
	t.Run("delay", func(t *testing.T) {
		r.Inject(registrytest.Fault{Times: 1, Delay: 50 * time.Millisecond})
		start := time.Now()
		res, _ := get(t, r, path)
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.GreaterOrEqual(t, time.Since(start), 50*time.Millisecond)
	})
}

func TestDrip(t *testing.T) {
	r := registrytest.New(t)
	digest, err := r.PushBlob("app", []byte("0123456789"))
	require.NoError(t, err)
	pieces := make(chan int)
	r.Inject(registrytest.Fault{Drip: pieces})
	res, err := http.Get(r.URL() + "/v2/app/blobs/" + digest)
	require.NoError(t, err)
	defer res.Body.Close()
	require.EqualValues(t, 10, res.ContentLength)
	read := func(n int) string {
		buffer := make([]byte, n)
		_, err := io.ReadFull(res.Body, buffer)
		require.NoError(t, err)
		return string(buffer)
	}
	pieces <- 3
	require.Equal(t, "012", read(3))
	pieces <- 4
	require.Equal(t, "3456", read(4))
	close(pieces)
	require.Equal(t, "789", read(3))
	rest, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Empty(t, rest)
}

func TestRelay(t *testing.T) {
	r := registrytest.New(t)
	relay := registrytest.NewRelay(t, r.Host)
	answered := make(chan int, 1)
	ask := func() {
		res, err := http.Get("http://" + relay.Host() + "/v2/")
		if assert.NoError(t, err) {
			_ = res.Body.Close()
			answered <- res.StatusCode
		}
	}
	ask()
	require.Equal(t, http.StatusOK, <-answered)
	relay.Freeze()
	r.ResetRequests()
	go ask()
	conn, err := net.Dial("tcp", relay.Host())
	require.NoError(t, err, "connections are accepted all the same")
	require.NoError(t, conn.Close())
	require.Empty(t, r.Requests())
	relay.Thaw()
	require.Equal(t, http.StatusOK, <-answered)
}

// A connection costs a round trip, TLS another one, and each request one more. Bytes do not
// wait for those before them.
func TestRelayWithRoundTrip(t *testing.T) {
	const trip = 100 * time.Millisecond
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<19)
	for name, test := range map[string]struct {
		options []registrytest.Option
		first   time.Duration
	}{
		"plain": {nil, 2 * trip},
		"TLS":   {[]registrytest.Option{registrytest.WithTLS()}, 3 * trip},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, test.options...)
			digest, err := r.PushBlob("app", content)
			require.NoError(t, err)
			relay := registrytest.NewRelay(t, r.Host)
			relay.SetRoundTrip(trip)
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(r.CA())
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}
			t.Cleanup(transport.CloseIdleConnections)
			get := func(path string) ([]byte, time.Duration) {
				start := time.Now()
				res, err := (&http.Client{Transport: transport}).Get(strings.Replace(r.URL(), r.Host(), relay.Host(), 1) + path)
				require.NoError(t, err)
				defer res.Body.Close()
				body, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				return body, time.Since(start)
			}
			_, first := get("/v2/")
			require.GreaterOrEqual(t, first, test.first)
			_, second := get("/v2/")
			require.GreaterOrEqual(t, second, trip)
			require.Greater(t, relay.Sent(), int64(0))

			body, took := get("/v2/app/blobs/" + digest)
			require.Equal(t, len(content), len(body))
			require.True(t, bytes.Equal(content, body))
			require.Greater(t, relay.Received(), int64(len(content)))
			require.Less(t, took, time.Duration(len(content)>>15)*trip/2, "each packet waited for the one before")
		})
	}
}

func TestHangEndsWithClientOrRegistry(t *testing.T) {
	r := registrytest.New(t)
	r.Inject(registrytest.Fault{Hang: true})

	ctx, cancel := context.WithCancel(t.Context())
	arrived := r.Notify(registrytest.Any)
	go func() { <-arrived; cancel() }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL()+"/v2/", nil)
	require.NoError(t, err)
	_, err = http.DefaultClient.Do(req)
	require.ErrorIs(t, err, context.Canceled)

	arrived = r.Notify(registrytest.Any)
	go func() { <-arrived; r.Stop() }()
	_, err = do(t, r, http.MethodPut, "/v2/")
	require.ErrorIs(t, err, io.EOF)
}

func TestRegistryIsSafeForConcurrentUse(t *testing.T) {
	r := registrytest.New(t, registrytest.WithPullLimit(50, time.Hour))
	_, err := r.PushImage("app", "1", registrytest.Image{})
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 10 {
				remove := r.Inject(registrytest.Fault{Match: registrytest.In("other"), Status: http.StatusTeapot})
				res, err := http.Get(r.URL() + "/v2/app/manifests/1")
				if err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
				r.Requests()
				remove()
			}
		})
	}
	wg.Wait()
	require.Equal(t, 100, r.Pulls())
	require.Equal(t, 50, r.Count(registrytest.Answered(http.StatusTooManyRequests)), "the limit is exact")
}

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
	pull(window+10, http.StatusOK, "1") // those of SpendPulls have, too: they were at second 10
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
