// Package brokertest starts real brokers for tests: in the process, or as servers that listen on loopback
// and can be stopped and started again.
package brokertest

import (
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/osism/skopeo-worker/shared/broker"
)

// ready is how long the start of a server or the opening of a broker may take. On a busy machine, a cluster
// needs several elections.
const ready = 2 * time.Minute

// Embedded returns a broker that runs in this process, with a store of its own.
// It is closed when the test ends.
func Embedded(t testing.TB) *broker.Broker {
	t.Helper()
	return Open(t, broker.Config{Replicas: 1, DataDir: t.TempDir()})
}

// Open opens the broker of a configuration. It is closed when the test ends; the test may close it before.
func Open(t testing.TB, c broker.Config) *broker.Broker {
	t.Helper()
	// With a deadline in the context, one request without an answer would use up all of the time.
	b, err := broker.Open(t.Context(), c, broker.Options{
		Client:   t.Name(),
		Patience: ready,
		Log:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatalf("opening the broker: %v", err)
	}
	t.Cleanup(b.Close)
	return b
}

// Option changes the options of a server before it starts.
type Option func(*server.Options)

// Server is a nats-server with JetStream that listens on loopback.
type Server struct {
	t       testing.TB
	options *server.Options
	server  *server.Server
	cluster *Cluster // nil if the server is alone
}

// Start starts a server on a free port, with a store of its own. It is stopped
// when the test ends.
func Start(t testing.TB, options ...Option) *Server {
	t.Helper()
	s := &Server{t: t, options: defaults(t)}
	for _, o := range options {
		o(s.options)
	}
	s.start()
	t.Cleanup(s.Stop)
	return s
}

func defaults(t testing.TB) *server.Options {
	return &server.Options{
		ServerName: "brokertest",
		Host:       "127.0.0.1",
		Port:       FreePort(t),
		NoLog:      true,
		NoSigs:     true,
		JetStream:  true,
		StoreDir:   t.TempDir(),
	}
}

func (s *Server) start() {
	s.t.Helper()
	started, err := server.NewServer(s.options.Clone())
	if err != nil {
		s.t.Fatalf("starting nats-server: %v", err)
	}
	s.server = started
	started.Start()
	if !started.ReadyForConnections(ready) {
		s.t.Fatalf("nats-server does not start")
	}
}

// URL returns the URL for clients, without credentials. It stays the same after a restart.
func (s *Server) URL() string {
	return "nats://" + (&net.TCPAddr{IP: net.ParseIP(s.options.Host), Port: s.options.Port}).String()
}

// Config returns the configuration with which the broker is opened.
func (s *Server) Config() broker.Config { return broker.Config{URL: s.URL(), Replicas: 1} }

// Stop ends the server; its store stays. Stopping twice does no harm.
func (s *Server) Stop() {
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

// Restart stops the server and starts it again, on its port and its store. If it belongs to a cluster,
// Restart waits until the cluster may place streams on it.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.start()
	if s.cluster != nil {
		s.cluster.gather()
	}
}
