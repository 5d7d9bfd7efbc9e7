package throttle_test

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
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

// TestUnknownLimit: a fleet that requests manifests, tags and blobs from an unknown registry rarely
// gets a 429, whichever of these the registry limits.
func TestUnknownLimit(t *testing.T) {
	for name, kinds := range map[string][]registrytest.Kind{
		"of all requests": nil, "of pulls": {registrytest.KindManifestGet}, "of HEADs and GETs": {registrytest.KindManifestHead, registrytest.KindManifestGet},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const perSecond, burst, workers, answers = 40, 20, 8, 1600
			r := registrytest.New(t, registrytest.WithRequestLimit(perSecond, burst, kinds...))
			b := brokertest.Embedded(t)
			var left atomic.Int64
			left.Store(answers)
			var running sync.WaitGroup
			for range workers {
				store, err := budget.Open(t.Context(), b, slog.New(slog.DiscardHandler))
				require.NoError(t, err)
				t.Cleanup(store.Close)
				th := &throttle.Throttle{Budget: store, Log: slog.New(slog.DiscardHandler)}
				client := &http.Client{Transport: th.Transport(http.DefaultTransport, "")}
				for _, what := range []string{"HEAD manifests/1", "GET tags/list", "GET blobs/sha256:" + strings.Repeat("0", 64), "GET manifests/1"} {
					method, path, _ := strings.Cut(what, " ")
					running.Go(func() { ask(t, client, method, "http://"+r.Host()+"/v2/a/"+path, &left) })
				}
			}
			running.Wait()
			require.Less(t, 100*r.Count(registrytest.Answered(http.StatusTooManyRequests)), 2*len(r.Requests()))
		})
	}
}

// ask repeats a request until left is 0. Answers other than 429 decrease left.
func ask(t *testing.T, client *http.Client, method, url string, left *atomic.Int64) {
	for left.Load() > 0 {
		request, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
		if err != nil {
			t.Error(err)
			return
		}
		response, err := client.Do(request)
		if spent := (*budget.SpentError)(nil); errors.As(err, &spent) {
			select {
			case <-time.After(time.Until(spent.Slot)): // when the registry is no longer closed
			case <-t.Context().Done():
			}
			continue
		}
		if err != nil {
			t.Error(err)
			return
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusTooManyRequests {
			left.Add(-1)
		}
	}
}
