package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osism/skopeo-worker/shared/redact"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/retryafter"
)

const (
	// dialTimeout bounds one connection attempt. Registries answer a SYN in well under a
	// second; three lost SYNs and their retransmissions take ten.
	dialTimeout = 10 * time.Second

	// tlsTimeout bounds the TLS handshake. It is net/http's default.
	tlsTimeout = 10 * time.Second

	// headerTimeout is how long a registry may take to answer, except to a part of a blob.
	// Pull-through caches and registries on object storage fetch a manifest before they
	// answer.
	headerTimeout = time.Minute

	// requestTimeout bounds a request from its first byte to the last byte of the answer, so
	// that a trickle cannot block a worker. Manifests and pages of tags have a few megabytes
	// at most.
	requestTimeout = 2 * time.Minute

	// idlePerHost connections to a registry stay open. With net/http's default of two,
	// parallel lookups over HTTP/1.1 would dial again and again.
	idlePerHost = 64

	// pingAfter and pingTimeout detect a dead HTTP/2 connection. Otherwise all requests on it
	// would hang until the kernel closes it.
	pingAfter   = 30 * time.Second
	pingTimeout = 15 * time.Second
)

// NewTransport returns the network of a Client: it keeps connections, has timeouts, and ends
// requests that move no byte for as long as stall. It uses the proxies of HTTP_PROXY,
// HTTPS_PROXY and NO_PROXY, the CAs of the system (or of SSL_CERT_FILE) and of certs.d. It
// does not verify the certificates of insecure hosts and of those that registries.conf calls
// insecure.
func NewTransport(insecure []string, stall time.Duration) http.RoundTripper {
	verified := http.DefaultTransport.(*http.Transport).Clone()
	verified.DialContext = (&net.Dialer{Timeout: dialTimeout, KeepAlive: pingAfter}).DialContext
	verified.TLSHandshakeTimeout = tlsTimeout
	verified.MaxIdleConnsPerHost = idlePerHost
	verified.MaxIdleConns = 0
	verified.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout}

	network := &byHost{trust: trust{reference.NewHosts(insecure)}, plain: verified, now: time.Now, kept: make(map[settings]*secured)}
	return &stalling{inner: network, limit: stall}
}

// guard is between the authentication and the network. It refuses to send credentials over
// plain HTTP, which go-containerregistry permits for localhost and private addresses. It gives
// every attempt of a request its whole body, which go-containerregistry does not do when it
// repeats a request with a new token.
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

// inPlain returns why a request is not sent over plain HTTP. If it comes from a redirect, a
// captive portal may have answered, which redirects everything to its login page: that is
// ErrPage. Only blobs may have storage on another host.
func inPlain(request *http.Request) error {
	from := request.Response // the redirect
	if from == nil || from.Request.URL.Host == request.URL.Host || strings.Contains(from.Request.URL.Path, "/blobs/") {
		return plainHTTP(request.URL.Host)
	}
	return fmt.Errorf("%w: a redirect (%d) to http://%s", ErrPage, from.StatusCode, request.URL.Host)
}

// waitKey is the context key of where to note a Retry-After: the errors of
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
	noteWait(response.Request.Context(), int64(retryafter.In(response.Header, now)))
}

func noteWait(ctx context.Context, wait int64) {
	if noted, ok := ctx.Value(waitKey{}).(*atomic.Int64); ok {
		noted.Store(wait)
	}
}

// certificatesFor is how long the certificates of a host are not read again.
const certificatesFor = 5 * time.Second

// party is the registry that a request is about. The request may go to another host, of its
// tokens or blobs.
type party struct {
	host     string // receives the requests
	name     string // its certificates are kept under this name
	insecure bool
	apart    bool   // over a connection that carries nothing else meanwhile
	own      string // part of all paths below /v2/ to which it may write
}

type partyKey struct{}

// with adds the registry to the context of a request.
func (l location) with(ctx context.Context, apart bool, own string) context.Context {
	return context.WithValue(ctx, partyKey{}, party{l.registry.RegistryStr(), l.named, l.insecure, apart, own})
}

// trust knows the hosts that may be used without TLS or without a verifiable certificate:
// those of INSECURE_REGISTRIES and those of registries.conf.
type trust struct{ named reference.Hosts }

// of reports whether a repository, such as "quay.io/osism/osism", or a host may be used like
// that.
func (t trust) of(host, repository string) (bool, error) {
	if t.named.Has(host) {
		return true, nil
	}
	settings, err := containers.SettingsOf(repository)
	return settings.Insecure, err
}

// allows reports whether a request may be sent without TLS or without a verifiable
// certificate.
func (t trust) allows(request *http.Request) (bool, error) {
	host := request.URL.Host
	if about, ok := request.Context().Value(partyKey{}).(party); ok && about.host == host {
		return about.insecure, nil
	}
	return t.of(host, host)
}

// byHost chooses the TLS settings by the host of a request, redirects included, so that an
// insecure registry does not weaken the others. The certificates of a registry also apply to
// hosts that it redirects to, as in skopeo.
type byHost struct {
	trust
	plain *http.Transport // verifies certificates, and has none of certs.d
	now   func() time.Time

	mu   sync.Mutex
	kept map[settings]*secured
}

// settings are what the choice of a transport depends on.
type settings struct {
	host, registry string
	insecure       bool
	apart          bool
}

// secured is a transport with certificates, and the time at which they were read.
type secured struct {
	*http.Transport
	certificates containers.Certificates
	at           time.Time
}

func (t *byHost) RoundTrip(request *http.Request) (*http.Response, error) {
	insecure, err := t.allows(request)
	if err == nil {
		about, _ := request.Context().Value(partyKey{}).(party)
		var chosen *http.Transport
		if chosen, err = t.transport(settings{request.URL.Host, about.name, insecure, about.apart}); err == nil {
			return chosen.RoundTrip(request)
		}
	}
	if request.Body != nil {
		_ = request.Body.Close()
	}
	return nil, err
}

// transport returns the transport for settings, with current certificates.
func (t *byHost) transport(s settings) (*http.Transport, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.kept[s]
	if kept != nil && t.now().Sub(kept.at) < certificatesFor {
		return kept.Transport, nil
	}
	found, err := containers.CertificatesOf(s.host)
	if err == nil && found == (containers.Certificates{}) && s.registry != "" {
		found, err = containers.CertificatesOf(s.registry)
	}
	if err != nil {
		return nil, err
	}
	if kept != nil && kept.certificates == found {
		kept.at = t.now()
		return kept.Transport, nil
	}
	fresh, trusts := t.plain, s.insecure || found != (containers.Certificates{})
	if trusts || s.apart {
		fresh = t.plain.Clone()
		fresh.TLSClientConfig = &tls.Config{InsecureSkipVerify: s.insecure} // without the protocols that plain has added
	}
	if s.apart {
		fresh.Protocols = new(http.Protocols)
		fresh.Protocols.SetHTTP1(true) // a connection carries one request at a time
	}
	if trusts {
		if err := found.AddTo(fresh.TLSClientConfig); err != nil {
			return nil, err
		}
	}
	if kept != nil && kept.Transport != t.plain {
		kept.CloseIdleConnections()
	}
	if len(t.kept) >= maxSessions {
		clear(t.kept) // blobs may be on any number of hosts
	}
	t.kept[s] = &secured{fresh, found, t.now()}
	return fresh, nil
}

// noteSecrets makes the credentials in a request known to package redact, because the answer
// may contain them: passwords, tokens, and the form of a token request.
func noteSecrets(request *http.Request) {
	kind, value, _ := strings.Cut(request.Header.Get("Authorization"), " ")
	switch {
	case strings.EqualFold(kind, "basic"):
		user, password, _ := request.BasicAuth()
		redact.AddRecentLogin(user, password)
	case value != "":
		redact.AddRecent(strings.TrimSpace(value))
	}
	if request.GetBody == nil || request.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		return
	}
	body, err := request.GetBody()
	if err != nil {
		return // sending the request fails, too
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, maxErrorSize))
	if err != nil {
		return
	}
	form, _ := url.ParseQuery(string(text))
	redact.AddRecentLogin(form.Get("username"), form.Get("password"))
	redact.AddRecent(form.Get("refresh_token"), form.Get("access_token"))
}
