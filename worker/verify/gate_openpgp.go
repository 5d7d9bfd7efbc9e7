//go:build containers_image_openpgp

package verify

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// gate is the only way of containers/image to registries: a proxy on loopback that sends
// its requests with the worker's client. So these take budget tokens, end after
// STALL_TIMEOUT, and use the worker's connections and credentials. The gate is open while an
// image is verified.
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

// way is the gate for one image.
type way struct {
	gate     *gate
	served   *served
	ctx      context.Context
	source   reference.Repository
	manifest registry.Manifest
	tags     []reference.Tag // of the manifest
	secret   string
	url      *url.URL

	mu     sync.Mutex
	failed error
	pulls  int
	found  map[string]content // manifests and blobs by URL, for the other tags
}

// content is a manifest or a blob that was read, or the error if there is none.
type content struct {
	body      []byte
	mediaType string
	err       error
}

// open opens the gate for an image by its digest or the tags.
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

// fail notes why an answer is missing; the first reason counts.
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

// proxy serves requests with the secret of a way, which no other process of this machine
// has.
func (s *served) proxy(w http.ResponseWriter, r *http.Request) {
	found := s.wayOf(r.Header.Get("Proxy-Authorization"))
	switch {
	case found == nil:
		http.Error(w, "not for you", http.StatusProxyAuthRequired)
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

// connect opens a tunnel, and is the server at its end.
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

// context adds the way of the connection to the context.
func (t *tunnels) context(ctx context.Context, c net.Conn) context.Context {
	if c, ok := c.(tunnel); ok {
		return context.WithValue(ctx, wayKey{}, c.way)
	}
	return ctx
}

var errAsked = errors.New("asked for something that is not needed to verify signatures")

// maxSignature is more than the 4 MiB that containers/image reads of a signature.
const maxSignature = 5 << 20

// serve answers a request for a target: with a manifest or blob of the registry if the
// path is one of the distribution specification, or signatures that it stores, and otherwise
// with the server's answer.
func (w *way) serve(to http.ResponseWriter, r *http.Request, target *url.URL) {
	name, isRegistry := strings.CutPrefix(target.Path, "/v2/")
	stored, isStored := strings.CutPrefix(target.Path, "/extensions/v2/")
	switch {
	case r.Method != http.MethodGet:
		w.fail(fmt.Errorf("%w: %s %s", errAsked, r.Method, target.Host))
		http.Error(to, errAsked.Error(), http.StatusMethodNotAllowed)
	case isStored:
		w.fetch(to, target.Host, stored)
	case !isRegistry:
		w.forward(to, target)
	case name == "":
		w.ping(to)
	default:
		w.fetch(to, target.Host, name)
	}
}

// ping answers as the registry does, which says whether it stores signatures.
func (w *way) ping(to http.ResponseWriter) {
	stores, err := w.gate.client.StoresSignatures(w.ctx, w.source)
	if err != nil {
		w.fail(err)
		http.Error(to, "no answer", http.StatusBadGateway)
		return
	}
	to.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	if stores {
		to.Header().Set("X-Registry-Supports-Signatures", "1")
	}
	_, _ = io.WriteString(to, "{}") // the client may be gone
}

// fetch answers with a manifest or a blob.
func (w *way) fetch(to http.ResponseWriter, host, name string) {
	content, mediaType, err := w.read(host, name)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		to.Header().Set("Content-Type", "application/json")
		to.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(to, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
	case err != nil:
		w.fail(err)
		http.Error(to, "no answer", http.StatusBadGateway)
	default:
		to.Header().Set("Content-Type", mediaType)
		_, _ = to.Write(content)
	}
}

// read returns the manifest or blob that a path names. It reads each only once.
func (w *way) read(host, name string) ([]byte, string, error) {
	w.mu.Lock()
	known, ok := w.found[host+"/"+name]
	w.mu.Unlock()
	if ok {
		return known.body, known.mediaType, known.err
	}
	body, mediaType, err := w.get(host, name)
	if err == nil || errors.Is(err, registry.ErrNotFound) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.found[host+"/"+name] = content{body, mediaType, err}
	}
	return body, mediaType, err
}

// get gets the manifest or blob that a path names.
func (w *way) get(host, name string) ([]byte, string, error) {
	resource, ref := cut(name, "/")
	repository, kind := cut(resource, "/")
	source, err := w.repository(host, repository)
	if err != nil {
		return nil, "", err
	}
	digest, notDigest := reference.ParseDigest(ref)
	switch {
	case kind == "manifests" && w.names(ref):
		return w.manifest.Raw, w.manifest.MediaType, nil
	case kind == "manifests" && notDigest == nil:
		return w.pull(source, digest)
	case kind == "manifests":
		tag, err := reference.ParseTag(ref)
		if err != nil {
			return nil, "", err
		}
		return w.pull(source, tag)
	case kind == "signatures" && notDigest == nil:
		list, err := w.gate.client.Signatures(w.ctx, source, digest)
		return list, "application/json", err
	case kind == "blobs" && notDigest == nil:
		content, err := w.gate.client.Config(w.ctx, source, digest)
		return content, "application/octet-stream", err
	}
	return nil, "", fmt.Errorf("%w: %s", errAsked, reference.Quote(name))
}

// names reports whether a tag or digest is that of the image. Its tag may name another image
// by now, and always does at a mirror that lags.
func (w *way) names(ref string) bool {
	return ref == w.manifest.Digest.String() ||
		slices.ContainsFunc(w.tags, func(tag reference.Tag) bool { return !tag.IsZero() && tag.String() == ref })
}

// pull gets a manifest.
func (w *way) pull(source reference.Repository, name reference.TagOrDigest) ([]byte, string, error) {
	manifest, err := w.gate.client.Get(w.ctx, source, name)
	if asked := (*registry.Error)(nil); err == nil || errors.As(err, &asked) && asked.Status != 0 {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.pulls++
	}
	return manifest.Raw, manifest.MediaType, err
}

// cut cuts at the last separator.
func cut(text, separator string) (before, after string) {
	i := strings.LastIndex(text, separator)
	if i < 0 {
		return "", text
	}
	return text[:i], text[i+len(separator):]
}

// repository returns the repository of a request: the image's own, whatever name its host
// has there, or that of a mirror in registries.conf.
func (w *way) repository(host, name string) (reference.Repository, error) {
	if name == w.source.Path() {
		return w.source, nil
	}
	return reference.ParseRepository(host + "/" + name)
}

// forward answers with the answer of another server than a registry.
func (w *way) forward(to http.ResponseWriter, target *url.URL) {
	request, err := http.NewRequestWithContext(w.ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		w.fail(err)
		http.Error(to, "no answer", http.StatusBadGateway)
		return
	}
	response, err := w.gate.forward.Do(request)
	if err == nil {
		defer response.Body.Close()
	}
	var body []byte
	if err == nil {
		body, err = io.ReadAll(io.LimitReader(response.Body, maxSignature))
	}
	if err == nil && (response.StatusCode/100 == 5 || response.StatusCode == http.StatusTooManyRequests) {
		err = fmt.Errorf("%s answered %d", target.Host, response.StatusCode)
	}
	if err != nil {
		w.fail(fmt.Errorf("reading signatures: %w", err))
		http.Error(to, "no answer", http.StatusBadGateway)
		return
	}
	to.Header().Set("Content-Type", response.Header.Get("Content-Type"))
	to.WriteHeader(response.StatusCode)
	_, _ = io.Copy(to, bytes.NewReader(body))
}

// selfSigned makes a certificate that is only ever shown on loopback.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
