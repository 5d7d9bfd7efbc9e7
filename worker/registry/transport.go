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

	network := &byHost{trust: trust{reference.NewHosts(insecure)}, plain: verified, now: time.Now, kept: make(map[settings]*secured)}
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

// certificatesFor is how long the certificates of a host are taken as they are.
const certificatesFor = 5 * time.Second

// party is the registry that a request is about, in the request's context: where it is
// sent may be another host, of its tokens or its blobs.
type party struct {
	host     string // that is asked
	name     string // under which its certificates are kept
	insecure bool
}

type partyKey struct{}

// with puts the registry into the context of requests about it.
func (l location) with(ctx context.Context) context.Context {
	return context.WithValue(ctx, partyKey{}, party{l.registry.RegistryStr(), l.named, l.insecure})
}

// trust is which hosts need not have TLS, or a certificate that can be verified: those
// of INSECURE_REGISTRIES, and those of registries.conf.
type trust struct{ named reference.Hosts }

// of reports whether that holds for a repository, "quay.io/osism/osism", or for a host.
func (t trust) of(host, repository string) (bool, error) {
	if t.named.Has(host) {
		return true, nil
	}
	settings, err := containers.SettingsOf(repository)
	return settings.Insecure, err
}

// allows reports whether a request may be sent in the clear, or to who knows whom.
func (t trust) allows(request *http.Request) (bool, error) {
	host := request.URL.Host
	if about, ok := request.Context().Value(partyKey{}).(party); ok && about.host == host {
		return about.insecure, nil
	}
	return t.of(host, host)
}

// byHost chooses the TLS settings by the host a request goes to, so that an
// insecure registry does not weaken the others, redirects included. The certificates of
// a registry also hold for where it sends us, as for skopeo.
type byHost struct {
	trust
	plain *http.Transport // without any of that
	now   func() time.Time

	mu   sync.Mutex
	kept map[settings]*secured
}

// settings are what a connection depends on.
type settings struct {
	host, registry string
	insecure       bool
}

// secured is a transport with certificates, and when they were looked at.
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
		if chosen, err = t.transport(settings{request.URL.Host, about.name, insecure}); err == nil {
			return chosen.RoundTrip(request)
		}
	}
	if request.Body != nil {
		_ = request.Body.Close()
	}
	return nil, err
}

// transport returns the transport for settings, with the certificates of now.
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
	fresh := t.plain
	if s.insecure || found != (containers.Certificates{}) {
		fresh = t.plain.Clone()
		fresh.TLSClientConfig = &tls.Config{InsecureSkipVerify: s.insecure}
		if err := found.AddTo(fresh.TLSClientConfig); err != nil {
			return nil, err
		}
	}
	if kept != nil && kept.Transport != t.plain {
		kept.CloseIdleConnections()
	}
	if len(t.kept) >= maxSessions {
		clear(t.kept) // hosts of blobs may be of any number
	}
	t.kept[s] = &secured{fresh, found, t.now()}
	return fresh, nil
}

// noteSecrets makes the credentials in a request known, whose answer may show them:
// passwords, tokens, and what a token server is asked with in a form.
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
		return // the request will say so
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
