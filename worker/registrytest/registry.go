// Package registrytest runs container registries for tests, benchmarks and
// demonstrations: the real distribution registry on loopback, with the habits
// of Docker Hub and quay.io (token services, pull and request limits, short
// pages), with faults on demand, with a record of every request, and with
// deterministic images to fill it.
//
// Every method of [Registry] is safe for concurrent use. What reads or writes
// the storage directly (PushImage, Tag, Digest, …) is not recorded, meets no
// fault and spends no limit, and works while the registry is stopped.
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

// ErrNotFound is wrapped by errors about a repository, tag, digest or blob
// that the registry does not hold.
var ErrNotFound = errors.New("not found")

// rebindTimeout bounds how long Restart waits for its port: between Stop and
// Restart the kernel may lend it to somebody's outgoing connection.
const rebindTimeout = 5 * time.Second

// rebindInterval is how often Restart tries its port.
const rebindInterval = 20 * time.Millisecond

// Registry is one running registry. Start or New makes it.
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

	// serving is held for reading by every request and for writing by Stop, so
	// that nothing touches the storage once Stop has returned.
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

// Host is the registry's "127.0.0.1:port", the same over Stop and Restart.
func (r *Registry) Host() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.address
}

// URL is the registry's base URL, without a trailing slash.
func (r *Registry) URL() string {
	if r.tls != nil {
		return "https://" + r.Host()
	}
	return "http://" + r.Host()
}

// Stop ends every connection and closes the port: clients see "connection
// refused". What was pushed is kept. It does nothing on a stopped registry.
func (r *Registry) Stop() {
	r.mu.Lock()
	server, cancel := r.server, r.cancel
	r.server, r.cancel = nil, nil
	r.mu.Unlock()
	if server == nil {
		return
	}
	cancel()
	_ = server.Close() // listener and connections are gone, whatever it says
	r.serving.Lock()   // wait for the requests under way; see serving
	defer r.serving.Unlock()
}

// Settle waits until no request is under way, those included whose client is gone.
func (r *Registry) Settle() {
	r.serving.Lock()
	defer r.serving.Unlock()
}

// Restart serves again on the same port. It fails where the registry is
// running, or where somebody else has taken the port for 5 seconds.
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
		// Without HTTP/2 a fault can take the connection over, TLS or not.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	r.mu.Lock()
	r.server, r.cancel, r.address = server, cancel, listener.Addr().String()
	r.mu.Unlock()
	if r.tls != nil {
		listener = tls.NewListener(listener, r.tls.serverConfig(r.settings.tlsClients))
	}
	go server.Serve(listener) //nolint:errcheck // it always ends with ErrServerClosed
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

// CA is the PEM certificate of the authority that signed the registry's, nil
// without WithTLS.
func (r *Registry) CA() []byte {
	if r.tls == nil {
		return nil
	}
	return r.tls.pem
}

// WriteCA writes CA to a file, as SSL_CERT_FILE or skopeo's --src-cert-dir
// (in a file named *.crt) want it.
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
	oddManifests    bool
	headAfterGet    bool
	refusedType     string
	refusedStatus   int
	partialIndexes  bool
	referrersAPI    bool
	referrersPage   int
	pullLimit       int
	silentLimit     bool
	pullWindow      time.Duration
	requestLimiters []requestLimiter
	quayAPI, hubAPI *BulkAPI
	now             func() time.Time
}

// WithDirectory keeps what is pushed in a folder instead of in memory: for
// images larger than memory, and where a registry shall outlive its process.
func WithDirectory(dir string) Option {
	return func(s *settings) { s.dir = dir }
}

// WithTLS serves HTTPS with a certificate for 127.0.0.1, localhost and the
// given hosts, signed by an authority of its own; see CA and WriteCA.
func WithTLS(hosts ...string) Option {
	return func(s *settings) { s.tls, s.tlsHosts = true, hosts }
}

// WithClientCertificates wants clients to show a certificate of the authority; see
// WriteClient. It takes WithTLS.
func WithClientCertificates() Option {
	return func(s *settings) { s.tlsClients = true }
}

// WithBasicAuth asks every request for this user and password.
func WithBasicAuth(user, password string) Option {
	return func(s *settings) { s.basicAuth = &credentials{user, password} }
}

// WithBasicRefusal answers wrong credentials with another status than 401, as ECR does
// with 403 when they have ended.
func WithBasicRefusal(status int) Option {
	return func(s *settings) { s.basicRefusal = status }
}

// WithMissingStatus answers a look at tags and manifests of a repository that does not
// exist with this status, so that nobody learns whether it does.
func WithMissingStatus(status int) Option {
	return func(s *settings) { s.missingStatus = status }
}

// WithTokenAuth asks every request for a bearer token of the registry's own
// token service, as Docker Hub and quay.io do.
func WithTokenAuth(auth TokenAuth) Option {
	return func(s *settings) { s.tokenAuth = &auth }
}

// WithLatency delays every request, as a network does.
func WithLatency(latency time.Duration) Option {
	return func(s *settings) { s.latency = latency }
}

// WithTagPage answers tags/list with at most n tags and a Link header to the
// next page, however many were asked for.
func WithTagPage(n int) Option {
	return func(s *settings) { s.tagPage = n }
}

// WithoutDigestHeader leaves Docker-Content-Digest out of the answers to
// manifest HEADs, which the specification allows.
func WithoutDigestHeader() Option {
	return func(s *settings) { s.noDigestHeader = true }
}

// WithOddManifests also holds what distribution does not: manifests of Docker's schema 1,
// and those under a digest that is not SHA-256. It does not look at what they refer to.
func WithOddManifests() Option {
	return func(s *settings) { s.oddManifests = true }
}

// WithoutRanges sends all of a blob where a part was asked for.
func WithoutRanges() Option {
	return func(s *settings) { s.noRanges = true }
}

// WithHeadAfterGet answers a HEAD of a manifest with 404 until a GET of the same
// reference has been answered, as proxies do that fetch on GET only.
func WithHeadAfterGet() Option {
	return func(s *settings) { s.headAfterGet = true }
}

// WithoutMediaType refuses manifests with this media type in them, with a status and
// without a word of what is wrong.
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

// WithPartialIndexes accepts an index although manifests below it are missing.
// Without it the registry refuses such an index, as distribution does unless
// validation.manifests.indexes.platforms says otherwise.
func WithPartialIndexes() Option {
	return func(s *settings) { s.partialIndexes = true }
}

// WithPullLimit allows limit manifest GETs in any window of this length, and
// answers the ones above it as Docker Hub does. HEADs are free, and both carry
// ratelimit-limit and ratelimit-remaining.
func WithPullLimit(limit int, window time.Duration) Option {
	return func(s *settings) { s.pullLimit, s.pullWindow = limit, window }
}

// WithoutLimitHeaders keeps the limit of WithPullLimit from being told before it is
// reached.
func WithoutLimitHeaders() Option { return func(s *settings) { s.silentLimit = true } }

// WithRequestLimit answers what exceeds perSecond (after a burst) as quay.io
// does: an HTML 429 without Retry-After. Of the given kinds together, or of all
// but token requests where none is given. It can be given more than once.
func WithRequestLimit(perSecond float64, burst int, kinds ...Kind) Option {
	return func(s *settings) {
		s.requestLimiters = append(s.requestLimiters, requestLimiter{
			limiter: rate.NewLimiter(rate.Limit(perSecond), burst),
			kinds:   slices.Clone(kinds),
		})
	}
}

// WithClock replaces the clock that pull windows and tokens go by.
func WithClock(now func() time.Time) Option {
	return func(s *settings) { s.now = now }
}
