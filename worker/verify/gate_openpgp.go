//go:build containers_image_openpgp

package verify

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// gate is a proxy on loopback through which containers/image reaches registries. It sends requests
// with the worker's client, so that they take budget tokens, end after STALL_TIMEOUT, and use the
// worker's connections and credentials. The gate is open while an image is verified.
type gate struct {
	client  *registry.Client
	forward http.Client // to other servers, such as a lookaside storage of signatures

	mu     sync.Mutex
	served *served // nil if no image is verified
}

func newGate(client *registry.Client, network http.RoundTripper) *gate {
	return &gate{client: client, forward: http.Client{Transport: network}}
}

// served is an open gate.
type served struct {
	users       int
	server      http.Server // of the proxy
	inside      http.Server // of the requests in tunnels
	tunnels     *tunnels
	address     net.Addr
	certificate tls.Certificate
	ways        sync.Map // by secret
}

// way is the access of one image to the gate.
type way struct {
	gate     *gate
	served   *served
	ctx      context.Context
	source   reference.Repository
	manifest registry.Manifest
	tags     []reference.Tag // of the manifest
	secret   string
	url      *url.URL

	bundled func() bool // hasBundle, called once

	mu     sync.Mutex
	failed error
	pulls  int
	found  map[string]content // manifests and blobs that were read, by host and path
}

// content is a manifest or blob, or the error if it does not exist.
type content struct {
	body      []byte
	mediaType string
	err       error
}

// open opens the gate for an image.
func (g *gate) open(ctx context.Context, source reference.Repository, manifest registry.Manifest, tags []reference.Tag) (*way, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.served == nil {
		s, err := g.listen()
		if err != nil {
			return nil, fmt.Errorf("%w: listening for the verification of signatures: %w", registry.ErrUnavailable, err)
		}
		g.served = s
	}
	w := &way{gate: g, served: g.served, ctx: ctx, source: source, manifest: manifest, tags: tags, secret: rand.Text(), found: map[string]content{}}
	w.bundled = sync.OnceValue(w.hasBundle)
	w.url = &url.URL{Scheme: "http", Host: g.served.address.String(), User: url.UserPassword("way", w.secret)}
	g.served.users++
	g.served.ways.Store(w.secret, w)
	return w, nil
}

func (w *way) close() {
	w.gate.mu.Lock()
	defer w.gate.mu.Unlock()
	w.served.ways.Delete(w.secret)
	if w.served.users--; w.served.users == 0 {
		_ = w.served.server.Close()
		_ = w.served.inside.Close()
		w.served.tunnels.end()
		w.gate.served = nil
	}
}

// fail notes why a request has failed; the first reason counts.
func (w *way) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed == nil {
		w.failed = err
	}
}

func (w *way) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// pulled returns how many manifests were pulled.
func (w *way) pulled() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pulls
}

func (g *gate) listen() (*served, error) {
	certificate, err := selfSigned()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &served{address: listener.Addr(), certificate: certificate, tunnels: newTunnels(listener.Addr())}
	s.server = http.Server{Handler: http.HandlerFunc(s.proxy), ReadHeaderTimeout: timeout}
	s.inside = http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: timeout, ConnContext: s.tunnels.context}
	go func() { _ = s.server.Serve(listener) }()
	go func() { _ = s.inside.Serve(s.tunnels) }()
	return s, nil
}

// proxy serves requests that have the secret of a way. No other process of the machine has it.
func (s *served) proxy(w http.ResponseWriter, r *http.Request) {
	found := s.wayOf(r.Header.Get("Proxy-Authorization"))
	switch {
	case found == nil:
		http.Error(w, "wrong secret", http.StatusProxyAuthRequired)
	case r.Method == http.MethodConnect:
		s.connect(w, found)
	default:
		found.serve(w, r, r.URL)
	}
}

func (s *served) wayOf(authorization string) *way {
	given := &http.Request{Header: http.Header{"Authorization": {authorization}}}
	_, secret, _ := given.BasicAuth()
	found, _ := s.ways.Load(secret)
	w, _ := found.(*way)
	return w
}

// connect opens a tunnel for HTTPS. The gate itself is the server at its end.
func (s *served) connect(w http.ResponseWriter, of *way) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		_ = conn.Close()
		return
	}
	config := &tls.Config{Certificates: []tls.Certificate{s.certificate}, MinVersion: tls.VersionTLS12}
	s.tunnels.add(tunnel{tls.Server(conn, config), of})
}

type wayKey struct{}

// answer serves a request in a tunnel.
func answer(w http.ResponseWriter, r *http.Request) {
	of, _ := r.Context().Value(wayKey{}).(*way)
	of.serve(w, r, &url.URL{Scheme: "https", Host: r.Host, Path: r.URL.Path, RawQuery: r.URL.RawQuery})
}

// tunnel is a connection through the proxy.
type tunnel struct {
	net.Conn
	way *way
}

// tunnels is a listener that accepts tunnels.
type tunnels struct {
	address net.Addr
	next    chan net.Conn
	ended   chan struct{}
	once    sync.Once
}

func newTunnels(address net.Addr) *tunnels {
	return &tunnels{address: address, next: make(chan net.Conn), ended: make(chan struct{})}
}

func (t *tunnels) add(c tunnel) {
	select {
	case t.next <- c:
	case <-t.ended:
		_ = c.Close()
	}
}

func (t *tunnels) end() { t.once.Do(func() { close(t.ended) }) }

// Accept implements net.Listener.
func (t *tunnels) Accept() (net.Conn, error) {
	select {
	case c := <-t.next:
		return c, nil
	case <-t.ended:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (t *tunnels) Close() error { t.end(); return nil }

// Addr implements net.Listener.
func (t *tunnels) Addr() net.Addr { return t.address }

// context adds the way of a connection to its context.
func (t *tunnels) context(ctx context.Context, c net.Conn) context.Context {
	if c, ok := c.(tunnel); ok {
		return context.WithValue(ctx, wayKey{}, c.way)
	}
	return ctx
}

// selfSigned makes a certificate that is used on loopback only.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
