// Package registrytest runs container registries for tests, benchmarks and demonstrations: the
// real distribution registry on loopback, with features of Docker Hub and quay.io (token
// services, pull and request limits, short pages), faults on demand, a record of all requests,
// and reproducible images.
//
// All methods of [Registry] are safe for concurrent use. Those that use the storage directly
// (PushImage, Tag, Digest, …) are not recorded, not affected by faults and limits, and work
// while the registry is stopped.
package registrytest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/distribution/distribution/v3/registry/storage/driver"
)

// ErrNotFound is wrapped by errors about a missing repository, tag, manifest or blob.
var ErrNotFound = errors.New("not found")

// Registry is a running registry. Start and New return one.
type Registry struct {
	settings settings
	app      *handlers.App
	driver   driver.StorageDriver
	storage  distribution.Namespace
	tls      *authority
	record   recorder
	faults   faults
	pulls    *pullLimit
	tokens   *tokenService
	login    atomic.Pointer[credentials] // of basicAuth
	history  history
	got      got
	odd      oddities

	connections connections

	// serving is held for reading by all requests and for writing by Stop, so that the storage
	// is not used after Stop has returned.
	serving sync.RWMutex

	mu         sync.Mutex // guards the fields below
	address    string
	server     *http.Server
	cancel     context.CancelFunc
	synthetics map[string]*synthetic
	liars      map[string]liar
}

// Start runs a registry on a free port of 127.0.0.1 until Close.
func Start(options ...Option) (*Registry, error) {
	s := settings{now: time.Now}
	for _, option := range options {
		option(&s)
	}
	r := &Registry{settings: s, synthetics: map[string]*synthetic{}, liars: map[string]liar{}}
	if s.pullLimit > 0 {
		r.pulls = &pullLimit{limit: s.pullLimit, window: s.pullWindow, now: s.now, silent: s.silentLimit}
	}
	r.login.Store(s.basicAuth)
	if s.tokenAuth != nil {
		r.tokens = newTokenService(*s.tokenAuth, r.exists, s.now)
	}
	if r.tls = s.authority; s.tls && r.tls == nil {
		authority, err := newAuthority(s.tlsHosts)
		if err != nil {
			return nil, fmt.Errorf("make a certificate authority: %w", err)
		}
		r.tls = authority
	}
	if err := r.openStorage(); err != nil {
		return nil, err
	}
	if err := r.listenAnywhere(); err != nil {
		return nil, err
	}
	return r, nil
}

// listenAnywhere listens on a free port below those that systems choose for connections (from 32768 on,
// on Linux), so that no connection has taken it at a restart.
func (r *Registry) listenAnywhere() (err error) {
	for range 100 {
		if err = r.listen(net.JoinHostPort("127.0.0.1", strconv.Itoa(10000+rand.N(22000)))); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return err
}

// New is Start for tests: it fails the test on an error, and closes the
// registry when the test is over.
func New(t testing.TB, options ...Option) *Registry {
	t.Helper()
	r, err := Start(options...)
	if err != nil {
		t.Fatalf("start a registry: %v", err)
	}
	t.Cleanup(r.Close)
	return r
}

// Host returns the registry's "127.0.0.1:port". It stays the same after Stop and Restart.
func (r *Registry) Host() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.address
}

// URL returns the registry's base URL, without a trailing slash.
func (r *Registry) URL() string {
	if r.tls != nil {
		return "https://" + r.Host()
	}
	return "http://" + r.Host()
}

// Stop closes all connections and the port: clients get "connection refused". The content is
// kept. It does nothing if the registry is stopped.
func (r *Registry) Stop() {
	r.mu.Lock()
	server, cancel := r.server, r.cancel
	r.server, r.cancel = nil, nil
	r.mu.Unlock()
	if server == nil {
		return
	}
	cancel()
	_ = server.Close() // listener and connections are closed in any case
	r.serving.Lock()   // wait for requests in progress; see serving
	defer r.serving.Unlock()
}

// Settle waits until no request is in progress, even for clients that have disconnected.
func (r *Registry) Settle() {
	r.serving.Lock()
	defer r.serving.Unlock()
}

// Restart serves again on the same port. It fails if the registry is running, or if another
// process has the port.
func (r *Registry) Restart() error {
	r.mu.Lock()
	running := r.server != nil
	r.mu.Unlock()
	if running {
		return errors.New("restart a registry: it is running")
	}
	return r.listen(r.Host())
}

// Close stops the registry for good.
func (r *Registry) Close() {
	r.Stop()
	_ = r.app.Shutdown() // only a pull-through cache has something to close
}

func (r *Registry) listen(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := &http.Server{
		Handler:     http.HandlerFunc(r.serve),
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    log.New(io.Discard, "", 0),
		ConnContext: r.connections.number,
	}
	if !r.settings.http2 {
		// Without HTTP/2 a fault can take the connection over, TLS or not.
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	r.mu.Lock()
	r.server, r.cancel, r.address = server, cancel, listener.Addr().String()
	r.mu.Unlock()
	if r.tls == nil {
		go server.Serve(listener) //nolint:errcheck // it always ends with ErrServerClosed
		return nil
	}
	server.TLSConfig = r.tls.serverConfig(r.settings.tlsClients)
	go server.ServeTLS(listener, "", "") //nolint:errcheck // it always ends with ErrServerClosed
	return nil
}

// CA returns the PEM certificate of the authority that signed the registry's, or nil without
// WithTLS.
func (r *Registry) CA() []byte {
	if r.tls == nil {
		return nil
	}
	return r.tls.pem
}

// WriteCA writes CA to a file, as needed for SSL_CERT_FILE, or for skopeo's --src-cert-dir if
// its name is *.crt.
func (r *Registry) WriteCA(path string) error {
	if err := os.WriteFile(path, r.CA(), 0o644); err != nil {
		return fmt.Errorf("write the authority of %s: %w", r.Host(), err)
	}
	return nil
}
