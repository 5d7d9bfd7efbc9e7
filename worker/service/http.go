package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/osism/skopeo-worker/worker/metrics"
)

// headerTimeout is how long a client may take to send the header of a request.
const headerTimeout = 5 * time.Second

// Endpoint serves the metrics and probes of a worker, from before it connects to the broker until
// after its last chunk. /healthz succeeds while the process runs, so that a worker that waits for its
// broker is not restarted; /readyz succeeds while the broker is connected.
type Endpoint struct {
	Metrics *metrics.Metrics

	listener net.Listener // if nil, the endpoint serves nothing
	server   http.Server
	conn     atomic.Pointer[nats.Conn]
}

// Listen returns the endpoint of a worker of this version at an address. If the address is
// empty, it serves nothing.
func Listen(addr, version string, log *slog.Logger) (*Endpoint, error) {
	e := &Endpoint{Metrics: metrics.New(version)}
	if addr == "" {
		return e, nil
	}
	var err error
	if e.listener, err = net.Listen("tcp", addr); err != nil {
		return nil, fmt.Errorf("METRICS_ADDR: %w", err)
	}
	e.server = http.Server{Handler: e.Handler(), ReadHeaderTimeout: headerTimeout}
	log.Info("serving /metrics, /healthz and /readyz", "address", e.Addr())
	return e, nil
}

// Addr returns the address at which the endpoint listens, or "" if it serves nothing.
func (e *Endpoint) Addr() string {
	if e.listener == nil {
		return ""
	}
	return e.listener.Addr().String()
}

// Serve serves until work returns. If serving fails, it ends the context of work. Serve returns the
// errors of both.
func (e *Endpoint) Serve(ctx context.Context, work func(context.Context) error) error {
	if e.listener == nil {
		return work(ctx)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	served := make(chan error, 1)
	go func() {
		err := e.server.Serve(e.listener)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		} else {
			err = fmt.Errorf("serving METRICS_ADDR: %w", err)
		}
		stop(err)
		served <- err
	}()
	err := work(ctx)
	_ = e.server.Close()
	return errors.Join(err, <-served)
}

// Handler serves the paths of the endpoint.
func (e *Endpoint) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(e.Metrics.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		status := nats.CONNECTING
		if conn := e.conn.Load(); conn != nil {
			status = conn.Status()
		}
		if status != nats.CONNECTED {
			http.Error(w, "broker: "+status.String(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	return mux
}
