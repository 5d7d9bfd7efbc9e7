package throttle_test

import (
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/throttle"
)

// TestQuayIsPacedAsItCounts: from the first one on, requests over HTTP/2 are paced by this process and
// those over HTTP/1.1 by the broker, and none gets a 429.
func TestQuayIsPacedAsItCounts(t *testing.T) {
	for name, c := range map[string]struct {
		options    []registrytest.Option
		proto      string
		byTheFleet bool
	}{
		"HTTP/1.1": {nil, "HTTP/1.1", true},
		"HTTP/2":   {[]registrytest.Option{registrytest.WithHTTP2()}, "HTTP/2.0", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			internet := registrytest.NewInternet(t, append(c.options, registrytest.WithQuayRates()), nil)
			internet.Transport.ForceAttemptHTTP2 = true
			b := brokertest.Embedded(t)
			store, err := budget.Open(t.Context(), b, slog.New(slog.DiscardHandler))
			require.NoError(t, err)
			t.Cleanup(store.Close)
			th := &throttle.Throttle{Budget: store, Log: slog.New(slog.DiscardHandler)}
			client := http.Client{Transport: th.Transport(internet.Transport, "")}
			var requests sync.WaitGroup
			for _, path := range []string{"/api/v1/repository/a/b/tag/", "/v2/a/b/manifests/1", "/v2/a/b/blobs/sha256:0", "/v2/"} {
				for range 12 {
					requests.Go(func() {
						response, err := client.Get("https://quay.io" + path)
						if err != nil {
							t.Error(err)
							return
						}
						_ = response.Body.Close()
					})
				}
			}
			requests.Wait()
			require.Zero(t, internet.Quay.Count(registrytest.Answered(http.StatusTooManyRequests)))
			for _, r := range internet.Quay.Requests() {
				require.Equal(t, c.proto, r.Proto)
			}
			info, err := b.JS.Stream(t.Context(), "mirror_pace")
			require.NoError(t, err)
			require.Equal(t, c.byTheFleet, info.CachedInfo().State.LastSeq > 0)
		})
	}
}

// TestClosedWhileWaiting: if the registry is closed while a request with a connection waits for its
// turn, the request never reaches the registry.
func TestClosedWhileWaiting(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{"HTTP/1.1": nil, "HTTP/2": {registrytest.WithHTTP2()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			internet := registrytest.NewInternet(t, options, nil)
			internet.Transport.ForceAttemptHTTP2 = true
			store, err := budget.Open(t.Context(), brokertest.Embedded(t), slog.New(slog.DiscardHandler))
			require.NoError(t, err)
			t.Cleanup(store.Close)
			th := &throttle.Throttle{Budget: store, Log: slog.New(slog.DiscardHandler)}
			client := http.Client{Transport: th.Transport(internet.Transport, "")}
			var requests sync.WaitGroup
			var answered atomic.Int64
			for range 100 { // more than are allowed in some seconds
				requests.Go(func() {
					response, err := client.Get("https://quay.io/v2/a/b/tags/list")
					if err == nil {
						answered.Add(1)
						_ = response.Body.Close()
					} else if !errors.As(err, new(*budget.SpentError)) {
						t.Error(err)
					}
				})
			}
			require.NoError(t, internet.Quay.WaitFor(t.Context(), registrytest.Any))
			call := budget.Call{Registry: "quay.io", Kind: budget.Tags, Started: time.Now()}
			require.NoError(t, store.Refused(t.Context(), call, time.Minute, "429"))
			requests.Wait()
			internet.Quay.Settle()
			require.Less(t, answered.Load(), int64(100))
			require.EqualValues(t, answered.Load(), internet.Quay.Count(registrytest.Any))
		})
	}
}
