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
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"golang.org/x/time/rate"
)

// ErrNotFound is wrapped by errors about a missing repository, tag, manifest or blob.
var ErrNotFound = errors.New("not found")

// rebindTimeout bounds how long Restart waits for its port. Between Stop and Restart, the
// kernel may use it for an outgoing connection of another process.
const rebindTimeout = 5 * time.Second

// rebindInterval is the pause between two attempts of Restart.
const rebindInterval = 20 * time.Millisecond

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

	mu         sync.Mutex // guards what follows
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
	if err := r.listen("127.0.0.1:0"); err != nil {
		return nil, err
	}
	return r, nil
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
// process has had the port for 5 seconds.
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
	listener, err := bind(address)
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

func bind(address string) (net.Listener, error) {
	deadline := time.NewTimer(rebindTimeout)
	defer deadline.Stop()
	retry := time.NewTicker(rebindInterval)
	defer retry.Stop()
	for {
		listener, err := net.Listen("tcp", address)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return listener, err
		}
		select {
		case <-deadline.C:
			return nil, err
		case <-retry.C:
		}
	}
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

// Option changes how a registry is started.
type Option func(*settings)

type settings struct {
	dir             string
	tls             bool
	http2           bool
	nginx           *nginx
	tlsHosts        []string
	tlsClients      bool
	authority       *authority // of an Internet
	basicAuth       *credentials
	basicRefusal    int
	missingStatus   int
	tokenAuth       *TokenAuth
	latency         time.Duration
	tagPage         int
	noDigestHeader  bool
	noRanges        bool
	bodyLimit       int64
	noPatch         int
	emptyEnd        int
	uploads         *movingUploads // nil: they stay
	oddManifests    bool
	headAfterGet    bool
	refusedType     string
	refusedStatus   int
	partialIndexes  bool
	noDelete        bool
	deletion        Deletion
	immutable       []string // tags
	referrersAPI    bool
	referrersPage   int
	pullLimit       int
	silentLimit     bool
	pullWindow      time.Duration
	requestLimiters []requestLimiter
	quayAPI, hubAPI *BulkAPI
	harborAPI       *BulkAPI
	now             func() time.Time
}

// WithDirectory stores the content in a folder instead of in memory, for images larger than
// memory, or if the content must outlive the process.
func WithDirectory(dir string) Option {
	return func(s *settings) { s.dir = dir }
}

// WithTLS serves HTTPS with a certificate for 127.0.0.1, localhost and the
// given hosts, signed by an authority of its own; see CA and WriteCA.
func WithTLS(hosts ...string) Option {
	return func(s *settings) { s.tls, s.tlsHosts = true, hosts }
}

// WithClientCertificates requires a client certificate of the authority; see WriteClient. It
// needs WithTLS.
func WithClientCertificates() Option {
	return func(s *settings) { s.tlsClients = true }
}

// WithBasicAuth requires this user and password for all requests.
func WithBasicAuth(user, password string) Option {
	return func(s *settings) { s.basicAuth = &credentials{user, password} }
}

// WithBasicRefusal answers wrong credentials with a status other than 401, as ECR answers 403
// to expired ones.
func WithBasicRefusal(status int) Option {
	return func(s *settings) { s.basicRefusal = status }
}

// WithMissingStatus answers reads of a missing repository with this status, which does not
// reveal whether it exists.
func WithMissingStatus(status int) Option {
	return func(s *settings) { s.missingStatus = status }
}

// WithTokenAuth requires a bearer token of the registry's own token service for all requests,
// as Docker Hub and quay.io do.
func WithTokenAuth(auth TokenAuth) Option {
	return func(s *settings) { s.tokenAuth = &auth }
}

// WithLatency delays all requests, as a network does.
func WithLatency(latency time.Duration) Option {
	return func(s *settings) { s.latency = latency }
}

// WithTagPage answers tags/list with at most n tags and a Link header to the next page,
// however many are requested.
func WithTagPage(n int) Option {
	return func(s *settings) { s.tagPage = n }
}

// WithoutDigestHeader leaves Docker-Content-Digest out of the answers to manifest HEADs. The
// specification permits that.
func WithoutDigestHeader() Option {
	return func(s *settings) { s.noDigestHeader = true }
}

// WithOddManifests also supports what distribution does not: manifests of Docker's schema 1,
// and those under a digest other than SHA-256. It does not check what they refer to.
func WithOddManifests() Option {
	return func(s *settings) { s.oddManifests = true }
}

// WithoutRanges sends the whole blob if a part is requested.
func WithoutRanges() Option {
	return func(s *settings) { s.noRanges = true }
}

// WithHeadAfterGet answers a HEAD of a manifest with 404 until there was a GET of the same
// reference, as proxies do that fetch only for GET.
func WithHeadAfterGet() Option {
	return func(s *settings) { s.headAfterGet = true }
}

// WithoutMediaType refuses manifests that contain this media type with a status and without an
// explanation.
func WithoutMediaType(mediaType string, status int) Option {
	return func(s *settings) { s.refusedType, s.refusedStatus = mediaType, status }
}

// WithBodyLimit refuses requests with a larger body, as nginx and Cloudflare in front of a
// registry do.
func WithBodyLimit(bytes int64) Option {
	return func(s *settings) { s.bodyLimit = bytes }
}

// WithoutPatch answers each PATCH with this status: a registry need not take more than
// whole blobs.
func WithoutPatch(status int) Option {
	return func(s *settings) { s.noPatch = status }
}

// WithEmptyEnd answers the request that ends an upload with this status if it has a body: a
// registry need not take a blob there.
func WithEmptyEnd(status int) Option {
	return func(s *settings) { s.emptyEnd = status }
}

// WithMovingUploads makes each answer about an upload name another location for the next request,
// and answers 404 to requests to an earlier one, as the specification permits.
func WithMovingUploads() Option {
	return func(s *settings) { s.uploads = &movingUploads{last: map[string]int{}} }
}

// WithPartialIndexes accepts an index if manifests in it are missing. Without it the registry
// refuses such an index, which is distribution's default for
// validation.manifests.indexes.platforms.
func WithPartialIndexes() Option {
	return func(s *settings) { s.partialIndexes = true }
}

// WithoutDelete answers deletions with 405, which is distribution's default.
func WithoutDelete() Option {
	return func(s *settings) { s.noDelete = true }
}

// WithPullLimit permits limit manifest GETs in any window of this length, and answers more of
// them as Docker Hub does. HEADs are free. Answers to both carry ratelimit-limit and
// ratelimit-remaining.
func WithPullLimit(limit int, window time.Duration) Option {
	return func(s *settings) { s.pullLimit, s.pullWindow = limit, window }
}

// WithoutLimitHeaders leaves out the headers of WithPullLimit until the limit is reached.
func WithoutLimitHeaders() Option { return func(s *settings) { s.silentLimit = true } }

// WithRequestLimit answers requests above perSecond (after a burst) as quay.io does: with an
// HTML 429 without Retry-After. It counts the given kinds together, or all but token requests
// if none is given. It can be used more than once.
func WithRequestLimit(perSecond float64, burst int, kinds ...Kind) Option {
	return func(s *settings) {
		s.requestLimiters = append(s.requestLimiters, requestLimiter{
			limiter: rate.NewLimiter(rate.Limit(perSecond), burst),
			kinds:   slices.Clone(kinds),
		})
	}
}

// WithClock replaces the clock for pull windows and tokens.
func WithClock(now func() time.Time) Option {
	return func(s *settings) { s.now = now }
}
