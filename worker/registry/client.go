// Package registry talks to OCI registries: it lists tags, looks manifests up, gets
// and puts them, and copies small blobs. Copying images is not its job. It retries
// nothing; errors say enough for the caller to decide.
package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
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
	heads       *memory // registries that have answered HEAD with a digest
	noPush      *memory // handshakes that are refused with the scope to push
	plainHTTP   *memory // insecure hosts whose API speaks plain HTTP
	role        role
}

// NewClient returns a client. It does not talk to anyone yet.
func NewClient(options Options) *Client {
	trust := trust{reference.NewHosts(options.Insecure)}
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
		heads:       newMemory(now),
		noPush:      newMemory(now),
		plainHTTP:   newMemory(now),
	}
}

// nobody is a keychain without credentials.
type nobody struct{}

func (nobody) Find(context.Context, string) (containers.Credential, error) {
	return containers.Credential{}, nil
}
func (nobody) Forget(string) {}

// location is where a repository is reached and under which name its
// credentials are found; the two differ for Docker Hub only.
type location struct {
	registry   name.Registry   // the host that is asked
	repository name.Repository // the name that credentials are kept under
	named      string          // the registry's name in references
	insecure   bool
}

// path is the repository's path at the registry, "library/nginx".
func (l location) path() string { return l.repository.RepositoryStr() }

// credentialsOf is the name under which its credentials are looked for.
func (l location) credentialsOf() string { return l.repository.Name() }

// locate finds out where a repository is reached.
func (c *Client) locate(repository reference.Repository) (location, error) {
	host, known := repository.Registry(), repository.String()
	settings, err := containers.SettingsOf(known)
	if err != nil {
		return location{}, err
	}
	if settings.Blocked {
		return location{}, fmt.Errorf("%s is %w", known, ErrBlocked)
	}
	insecure := settings.Insecure || c.trust.named.Has(host)
	options := []name.Option{name.WeakValidation}
	if insecure {
		options = append(options, name.Insecure)
	}
	if host == reference.DockerHub {
		host, known = reference.DockerHubRegistry, name.DefaultRegistry+"/"+repository.Path()
	}
	parsed, err := name.NewRepository(known, options...)
	if err != nil {
		return location{}, fmt.Errorf("%w: %w", ErrName, err)
	}
	registry, err := name.NewRegistry(host, options...)
	if err != nil {
		return location{}, fmt.Errorf("%w: %w", ErrName, err)
	}
	return location{registry: registry, repository: parsed, named: repository.Registry(), insecure: insecure}, nil
}

// locateAPI returns where an API of a repository's registry is reached, which may have
// another host.
func (c *Client) locateAPI(repository reference.Repository, host string) (location, error) {
	at, err := c.locate(repository)
	if err != nil || host == at.registry.RegistryStr() {
		return at, err
	}
	at.named = host
	if at.insecure, err = c.trust.of(host, host); err != nil {
		return location{}, err
	}
	at.registry, err = name.NewRegistry(host, name.WeakValidation)
	return at, err
}

// host is the registry that is asked for a repository.
func (c *Client) host(repository reference.Repository) (string, error) {
	at, err := c.locate(repository)
	if err != nil {
		return "", err
	}
	return at.registry.Name(), nil
}

// pushScope is what a destination is asked for, in the words of skopeo.
const pushScope = "pull,push"

// role is what a client's registries are to it.
type role int

const (
	source      role = iota // read from
	destination             // written to
	candidate               // only compared with: nothing may be made there
)

// Writing returns the client for registries that are written to, with the same
// connections. It asks them for the permission to push with every request: some, such as
// Quay, make a repository for who may push, and do not let others see that it is
// missing. Where a look is refused nevertheless, the error is ErrHidden.
func (c *Client) Writing() *Client { return c.as(destination) }

// Comparing returns the client for registries that others write to, with the same
// connections. Where a look is refused, the error is ErrHidden.
func (c *Client) Comparing() *Client { return c.as(candidate) }

func (c *Client) as(role role) *Client {
	other := *c
	other.role = role
	return &other
}

// Absent reports whether an error of a look says that there is nothing, or, at a
// destination, that there may be nothing: then a push decides.
func Absent(err error) bool { return errors.Is(err, ErrNotFound) || errors.Is(err, ErrHidden) }

// hiddenError is the refusal of a look at what may not exist. It wraps ErrHidden and the
// refusal.
type hiddenError struct{ refusal error }

func (e *hiddenError) Error() string   { return e.refusal.Error() }
func (e *hiddenError) Unwrap() []error { return []error{ErrHidden, e.refusal} }
