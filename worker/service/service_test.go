package service

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/worker/metrics"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

const (
	deadline = 10 * time.Second
	often    = 10 * time.Millisecond
)

func ask(t *testing.T, server *httptest.Server, path string) (int, string) {
	t.Helper()
	response, err := server.Client().Get(server.URL + path)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

// TestProbes: a worker without its broker lives, and is not ready.
func TestProbes(t *testing.T) {
	broker := brokertest.Start(t)
	b := brokertest.Open(t, broker.Config())
	s := &Service{Metrics: metrics.New("test")}
	server := httptest.NewServer(s.handler(b))
	defer server.Close()

	s.Metrics.Image("quay.io", "copied")
	s.Metrics.Spent("quay.io", 3, 2048)
	s.Metrics.Spent("quay.io", -1, -1) // a counter that goes down would end the process
	s.Metrics.Chunk(time.Second, metrics.ChunkDone)
	status, body := ask(t, server, "/metrics")
	require.Equal(t, http.StatusOK, status)
	for _, line := range []string{
		`skopeo_worker_images_total{outcome="copied",registry="quay.io"} 1`,
		`skopeo_worker_pulls_total{registry="quay.io"} 3`,
		`skopeo_worker_copied_bytes_total{registry="quay.io"} 2048`,
		`skopeo_worker_chunk_duration_seconds_count 1`,
		`go_goroutines `,
	} {
		require.Contains(t, body, line)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		status, _ = ask(t, server, path)
		require.Equal(t, http.StatusOK, status, path)
	}

	ready := func() bool {
		status, _ := ask(t, server, "/readyz")
		return status == http.StatusOK
	}
	broker.Stop()
	require.Eventually(t, func() bool { return !ready() }, deadline, often)
	status, _ = ask(t, server, "/healthz")
	require.Equal(t, http.StatusOK, status)
	broker.Restart()
	require.Eventually(t, ready, deadline, often)
}

func TestServe(t *testing.T) {
	s := &Service{Metrics: metrics.New("test")}
	b := brokertest.Embedded(t)
	require.ErrorContains(t, s.Serve(t.Context(), "127.0.0.1:none", b), "METRICS_ADDR")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, "127.0.0.1:0", b) }()
	cancel()
	require.NoError(t, <-ended)
}

// TestNew: a worker without a skopeo does not take chunks only to fail them.
func TestNew(t *testing.T) {
	b := brokertest.Embedded(t)
	c := Config{Concurrency: 1, MaxAttempts: 1, CopyTimeout: time.Minute, Skopeo: "/no/such/skopeo"}
	_, err := New(t.Context(), "test", b, c, Registries{}, slog.New(slog.DiscardHandler))
	require.ErrorIs(t, err, skopeo.ErrNotInstalled)

	c.Skopeo = "skopeo"
	s, err := New(t.Context(), "test", b, c, Registries{}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, s.Run(ctx))
}
