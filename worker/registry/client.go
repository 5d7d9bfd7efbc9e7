// Package registry talks to OCI registries: it lists tags, looks manifests up, gets
// and puts them, and copies small blobs. Copying images is not its job. It retries
// nothing; errors say enough for the caller to decide.
package registry

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
)

// Options configure a Client. The zero value talks to public registries
// anonymously and over verified TLS.
type Options struct {
	// Insecure are the registries, host[:port], to talk to without TLS
	// verification, or in plain HTTP where they do not speak TLS, beside those of
	// registries.conf.
	Insecure []string
	// Keychain finds credentials; nil is anonymous.
	Keychain Keychain
	// UserAgent is what we call ourselves.
	UserAgent string
	// Clock is the time; nil is time.Now.
	Clock func() time.Time
	// CopyTimeout bounds the transfer of a blob, whatever it moves; 0: it takes as long
	// as it takes.
	CopyTimeout time.Duration
	// Transport is the network; nil is NewTransport(Insecure, DefaultStall).
	Transport http.RoundTripper
	// Guard is called with each request before it is sent, and sends it, or returns
	// why not; nil sends all at once.
	Guard func(ctx context.Context, request Request, send func() error) error
}

// Request is one that a client is about to send.
type Request struct {
	Op         string // one of the Op constants
	Repository reference.Repository
	Reference  reference.TagOrDigest // nil for a repository as a whole
	Blob       bool                  // the reference is that of a blob
	Opens      bool                  // an upload, before the registry knows of what
}

// Client talks to registries. It keeps connections and tokens, so a process
// has one. It is safe for concurrent use.
type Client struct {
	trust       trust
	copyTimeout time.Duration
	guard       func(ctx context.Context, request Request, send func() error) error
	sessions    *sessions
	noReferrers *memory // registries without the referrers API
	denials     *memory // registries that answer HEAD with 404 where GET has an answer
	noPush      *memory // handshakes that are refused with the scope to push
	role        role
}

// NewClient returns a client. It does not talk to anyone yet.
func NewClient(options Options) *Client {
	trust := trust{newHostSet(options.Insecure)}
	network := options.Transport
	if network == nil {
		network = NewTransport(options.Insecure, DefaultStall)
	}
	keychain := options.Keychain
	if keychain == nil {
		keychain = nobody{}
	}
	now := options.Clock
	if now == nil {
		now = time.Now
	}
	named := transport.NewUserAgent(&guard{trust: trust, inner: network, now: now}, options.UserAgent)
	return &Client{
		trust:       trust,
		copyTimeout: options.CopyTimeout,
		guard:       options.Guard,
		sessions: &sessions{
			keychain:   keychain,
			network:    named,
			challenges: &challenges{network: named, now: now, kept: make(map[string]challenge)},
			now:        now,
			kept:       make(map[string]*session),
		},
		noReferrers: newMemory(now),
		denials:     newMemory(now),
		noPush:      newMemory(now),
	}
}

// Insecure reports whether a host need not have TLS, or a certificate that can be verified.
func (c *Client) Insecure(host string) (bool, error) { return c.trust.of(strings.ToLower(host), host) }

// nobody is a keychain without credentials.
type nobody struct{}

func (nobody) Find(context.Context, string) (containers.Credential, error) {
	return containers.Credential{}, nil
}
func (nobody) Forget(string) {}
