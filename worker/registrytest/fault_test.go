package registrytest_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
		_, err := do(t, r, http.MethodPut, path) // a client repeats a GET
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
