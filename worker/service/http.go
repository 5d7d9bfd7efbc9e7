package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/osism/skopeo-worker/shared/broker"
)

// headerTimeout bounds what a client of the metrics may take to ask.
const headerTimeout = 5 * time.Second

// Serve answers on the address until ctx ends: /metrics; /healthz, which answers
// while the process lives; /readyz, while the broker is reached.
func (s *Service) Serve(ctx context.Context, addr string, b *broker.Broker) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("METRICS_ADDR: %w", err)
	}
	server := &http.Server{Handler: s.handler(b), ReadHeaderTimeout: headerTimeout}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving METRICS_ADDR: %w", err)
	}
	return nil
}

func (s *Service) handler(b *broker.Broker) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Metrics.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if status := b.Conn.Status(); status != nats.CONNECTED {
			http.Error(w, "broker: "+status.String(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	return mux
}
