package registry

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/osism/skopeo-worker/worker/retryafter"
)

const (
	// dialTimeout covers one connection attempt. Registries answer a SYN in
	// well under a second; ten are what three lost SYNs and their resends take.
	dialTimeout = 10 * time.Second

	// tlsTimeout covers the handshake, as in net/http's own default.
	tlsTimeout = 10 * time.Second

	// headerTimeout is how long a registry may think, but of a blob. Pull-through caches and
	// registries on object storage fetch a manifest from afar before they answer.
	headerTimeout = time.Minute

	// requestTimeout bounds a request from its first byte to the last of the
	// answer's body, so that a trickle cannot hold a worker. Manifests and tag
	// pages are at most some megabytes.
	requestTimeout = 2 * time.Minute

	// idlePerHost connections stay open to one registry: net/http's default of
	// two makes parallel lookups over HTTP/1.1 dial again and again.
	idlePerHost = 64

	// pingAfter and pingTimeout find a dead HTTP/2 connection, which otherwise
	// swallows every request until the kernel gives it up.
	pingAfter   = 30 * time.Second
	pingTimeout = 15 * time.Second
)

// NewTransport returns the network side of a Client: keep-alive connections,
// timeouts, an end of what moves no byte for as long as stall, proxies from the environment
// (HTTP_PROXY, HTTPS_PROXY, NO_PROXY), the system's CAs (or SSL_CERT_FILE's) and those of
// certs.d, and no TLS verification for the insecure hosts, nor for those of
// registries.conf. What paces or counts requests wraps it.
func NewTransport(insecure []string, stall time.Duration) http.RoundTripper {
	verified := http.DefaultTransport.(*http.Transport).Clone()
	verified.DialContext = (&net.Dialer{Timeout: dialTimeout, KeepAlive: pingAfter}).DialContext
	verified.TLSHandshakeTimeout = tlsTimeout
	verified.MaxIdleConnsPerHost = idlePerHost
	verified.MaxIdleConns = 0
	verified.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout}

	network := &byHost{trust: trust{newHostSet(insecure)}, plain: verified, now: time.Now, kept: make(map[settings]*secured)}
	return &stalling{inner: network, limit: stall}
}

// guard is between the authentication and the network. It keeps credentials
// off plain HTTP, which go-containerregistry allows for localhost and private
// addresses, and gives every attempt of a request its whole body, which
// go-containerregistry does not when it sends a request again with a new token.
type guard struct {
	trust
	inner http.RoundTripper
	now   func() time.Time
}

func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Scheme == "http" {
		allowed, err := g.allows(request)
		if !allowed {
			if request.Body != nil {
				request.Body.Close()
			}
			return nil, cmp.Or(err, inPlain(request))
		}
	}
	if request.GetBody != nil {
		body, err := request.GetBody()
		if err != nil {
			return nil, err
		}
		request = request.Clone(request.Context())
		request.Body = body
	}
	noteSecrets(request)
	response, err := g.inner.RoundTrip(request)
	if err == nil {
		noteRetryAfter(response, g.now())
	}
	return response, err
}

// inPlain is why a request is not sent over plain HTTP. What a redirect asks for is not
// the registry's: a captive portal sends everything to its login page. Only blobs have
// storage of their own.
func inPlain(request *http.Request) error {
	from := request.Response // the redirect
	if from == nil || from.Request.URL.Host == request.URL.Host || strings.Contains(from.Request.URL.Path, "/blobs/") {
		return plainHTTP(request.URL.Host)
	}
	return fmt.Errorf("%w: a redirect (%d) to http://%s", ErrPage, from.StatusCode, request.URL.Host)
}

// waitKey finds in a context where to note a Retry-After: the errors of
// go-containerregistry's token exchange do not carry the answer's header.
type waitKey struct{}

func withWait(ctx context.Context) (context.Context, *atomic.Int64) {
	wait := new(atomic.Int64)
	return context.WithValue(ctx, waitKey{}, wait), wait
}

func noteRetryAfter(response *http.Response, now time.Time) {
	if response.StatusCode < http.StatusBadRequest {
		return
	}
	if wait, ok := response.Request.Context().Value(waitKey{}).(*atomic.Int64); ok {
		wait.Store(int64(retryafter.In(response.Header, now)))
	}
}
