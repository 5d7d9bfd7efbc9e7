package bench

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// place is a kind of source: what it is called, and what it allows.
type place struct {
	name    string
	host    string   // as lists name it
	names   []string // all its hosts
	rate    int      // bytes a second of each connection; 0: any number
	options []registrytest.Option
}

// Docker Hub allows 200 pulls in six hours to an account without a subscription, and
// thousands of requests a minute.
const (
	hubPulls    = 200
	hubWindow   = 6 * time.Hour
	hubRequests = 3000
)

// The places. Their limits are those of the registries of the same names.
var (
	quay = place{"quay.io", "quay.io", []string{"quay.io"}, 0, []registrytest.Option{
		registrytest.WithQuayRates(),
		registrytest.WithQuayAPI(registrytest.BulkAPI{}),
		registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true, Realm: "https://quay.io/v2/auth"}),
	}}
	hub = place{"Docker Hub", "docker.io", []string{"registry-1.docker.io", "index.docker.io", "auth.docker.io", "hub.docker.com"}, 0, []registrytest.Option{
		registrytest.WithPullLimit(hubPulls, hubWindow),
		registrytest.WithRequestLimit(hubRequests/60., hubRequests),
		registrytest.WithHubAPI(registrytest.BulkAPI{}),
		registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true, Realm: "https://auth.docker.io/token"}),
	}}
	unlimited = place{"no limits", "registry.example.com", []string{"registry.example.com"}, 0, []registrytest.Option{
		registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true, Realm: "https://registry.example.com/token"}),
	}}
	narrow = place{"8 MB/s over each connection", unlimited.host, unlimited.names, 8e6, unlimited.options}
)

// world is a source and a destination, each behind the latency of a network, as all
// programs get them.
type world struct {
	place
	source, destination     *registrytest.Registry
	toSource, toDestination *registrytest.Relay
	environment             []string // with which programs reach both
	dir, authorities        string   // of the programs' data; path of the certificates
	onDisk                  bool
	passed                  atomic.Int64 // time that passed only for the source's pull limit
}

// newWorld starts a world, with registries that store on disk if the images are large:
// distribution's storage in memory copies a blob for each piece that is added. Programs reach the source by its real names, through a proxy
// without latency of its own, and the destination by its address.
func newWorld(b *testing.B, p place, trip time.Duration, onDisk bool) *world {
	b.Helper()
	w := &world{place: p, onDisk: onDisk, dir: b.TempDir(), authorities: filepath.Join(b.TempDir(), "ca.pem")}
	clock := registrytest.WithClock(func() time.Time { return time.Now().Add(time.Duration(w.passed.Load())) })
	w.source = registrytest.New(b, slices.Concat(w.basics(b, p.names...), p.options, []registrytest.Option{clock})...)
	w.toSource = registrytest.NewRelay(b, w.source.Host)
	w.toSource.SetRoundTrip(trip)
	w.toSource.SetRate(p.rate)
	w.toDestination = registrytest.NewRelay(b, func() string { return w.destination.Host() })
	w.toDestination.SetRoundTrip(*destinationTrip)
	w.environment = reach(b, p.names, w.toSource, w.authorities)
	w.reset(b)
	return w
}

// basics are the options of both registries: TLS, HTTP/2 unless it is switched off, and the
// storage.
func (w *world) basics(b *testing.B, names ...string) []registrytest.Option {
	b.Helper()
	options := []registrytest.Option{registrytest.WithTLS(names...)}
	if *http2 {
		options = append(options, registrytest.WithHTTP2())
	}
	if w.onDisk {
		options = append(options, registrytest.WithDirectory(b.TempDir()))
	}
	return options
}

// reach returns the environment of a program, in which these names lead to the relay.
func reach(b *testing.B, names []string, relay *registrytest.Relay, authorities string) []string {
	b.Helper()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodConnect || !slices.Contains(names, req.URL.Hostname()) {
			http.Error(w, "the benchmark has no "+req.URL.Host, http.StatusBadGateway)
			return
		}
		tunnel(w, relay.Host())
	}))
	b.Cleanup(proxy.Close)
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + b.TempDir(),
		"HTTPS_PROXY=" + proxy.URL, "SSL_CERT_FILE=" + authorities, "SSL_CERT_DIR=/nonexistent",
	}
}

// reset gives the next program an empty destination.
func (w *world) reset(b *testing.B) {
	b.Helper()
	if w.destination != nil {
		w.destination.Close()
	}
	w.destination = registrytest.New(b, w.basics(b)...)
	require.NoError(b, os.WriteFile(w.authorities, slices.Concat(w.source.CA(), w.destination.CA()), 0o600))
}

// target is the destination of a program.
func (w *world) target() string { return w.toDestination.Host() + "/mirror" }

// mark starts the count of what both sides see, and returns what reads it.
func (w *world) mark() (counted func() (source, destination side)) {
	begin := time.Now()
	from, to := start(w.source, w.toSource), start(w.destination, w.toDestination)
	return func() (source, destination side) { return from(begin), to(begin) }
}

func start(r *registrytest.Registry, relay *registrytest.Relay) func(begin time.Time) side {
	r.ResetRequests()
	sent, received := relay.Sent(), relay.Received()
	return func(begin time.Time) side {
		seen := side{
			Sent: megabytes(relay.Sent() - sent), Received: megabytes(relay.Received() - received),
			Kinds: map[registrytest.Kind]int{},
		}
		for _, request := range r.Requests() {
			seen.Requests++
			seen.Kinds[request.Kind]++
			if request.Proto == "HTTP/2.0" {
				seen.HTTP2++
			}
			if request.Status == http.StatusTooManyRequests {
				seen.Refused++
				if request.At.After(begin.Add(time.Second)) {
					seen.RefusedLater++
				}
			}
		}
		return seen
	}
}

func megabytes(bytes int64) float64 { return float64(bytes) / 1e6 }

// tunnel connects a client with an address until one of them ends.
func tunnel(w http.ResponseWriter, address string) {
	far, err := net.Dial("tcp", address)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	near, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = far.Close()
		return
	}
	_, _ = io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n")
	pass := func(to, from io.ReadWriteCloser) {
		_, _ = io.Copy(to, from)
		_, _ = to.Close(), from.Close()
	}
	go pass(far, near)
	pass(near, far)
}
