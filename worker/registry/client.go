// Package registry talks to OCI registries: it lists tags, looks manifests up, gets
// and puts them, and copies small blobs. Copying images is not its job. It retries
// nothing; errors say enough for the caller to decide.
package registry

import (
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Options configure a Client. The zero value talks to public registries
// anonymously and over verified TLS.
type Options struct {
	// Insecure are the registries, host[:port], to talk to without TLS
	// verification, or in plain HTTP where they do not speak TLS.
	Insecure []string
	// Keychain finds credentials; nil is anonymous.
	Keychain authn.Keychain
	// UserAgent is what we call ourselves.
	UserAgent string
	// Transport is the network; nil is NewTransport(Insecure).
	Transport http.RoundTripper
}

// Client talks to registries. It keeps connections and tokens, so a process
// has one. It is safe for concurrent use.
type Client struct {
	insecure    hostSet
	sessions    *sessions
	noReferrers *memory // registries without the referrers API
	denials     *memory // registries that answer HEAD with 404 where GET has an answer
}

// NewClient returns a client. It does not talk to anyone yet.
func NewClient(options Options) *Client {
	insecure := newHostSet(options.Insecure)
	network := options.Transport
	if network == nil {
		network = NewTransport(options.Insecure)
	}
	keychain := options.Keychain
	if keychain == nil {
		keychain = authn.NewMultiKeychain() // of none: anonymous
	}
	guarded := &guard{insecure: insecure, inner: network, now: time.Now}
	return &Client{
		insecure: insecure,
		sessions: &sessions{
			keychain: keychain,
			inner:    transport.NewUserAgent(&pings{inner: guarded, now: time.Now, kept: make(map[string]pong)}, options.UserAgent),
			kept:     make(map[string]*session),
		},
		noReferrers: newMemory(time.Now),
		denials:     newMemory(time.Now),
	}
}
