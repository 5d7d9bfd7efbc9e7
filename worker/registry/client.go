// Package registry is a client of OCI registries: it lists tags and referrers, and looks up, gets,
// puts and deletes manifests and blobs. It does not retry; the caller decides by the error.
package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
)

// Options configure a Client. The zero value uses public registries anonymously, over verified
// TLS.
type Options struct {
	// Insecure are registries, host[:port], that are used without TLS verification, or in
	// plain HTTP if they do not speak TLS, in addition to those of registries.conf.
	Insecure []string
	// Keychain finds credentials; if nil, the client is anonymous.
	Keychain Keychain
	// UserAgent is the beginning of the User-Agent header.
	UserAgent string
	// Clock returns the time; if nil, time.Now is used.
	Clock func() time.Time
	// CopyTimeout limits the transfer of a blob; 0 means no limit.
	CopyTimeout time.Duration
	// Transport is the network; if nil, NewTransport(Insecure, DefaultStall) is used.
	Transport http.RoundTripper
	// Guard is called for each request. It calls send, or returns why the request must not be
	// sent. It is optional.
	Guard func(ctx context.Context, request Request, send func() error) error
}

// Request is a request that a client is about to send.
type Request struct {
	Op         string // one of the Op constants
	Repository reference.Repository
	Reference  reference.TagOrDigest // nil for a request about the whole repository
	Blob       bool                  // Reference is the digest of a blob
	Opens      bool                  // begins an upload; the registry does not know the content yet
}

// Client is a client of any number of registries. It keeps connections and tokens, so a
// process needs only one. It is safe for concurrent use.
type Client struct {
	trust       trust
	copyTimeout time.Duration
	guard       func(ctx context.Context, request Request, send func() error) error
	sessions    *sessions
	locations   *lru.Cache[reference.Repository, location]
	noReferrers *memory // registries without the referrers API
	denials     *memory // registries that answer HEAD with 404 for manifests that GET returns
	heads       *memory // registries that have answered HEAD with a digest
	noPush      *memory // sessions that cannot be opened with the scope to push
	plainHTTP   *memory // insecure hosts whose API speaks plain HTTP
	redirects   *memory // hosts that redirect parts of blobs
	declared    *memory // hosts that declare blobs as compressed that are not
	role        role
}

// NewClient returns a client. It sends no request.
func NewClient(options Options) *Client {
	trust := trust{reference.NewHosts(options.Insecure)}
	network := options.Transport
	if network == nil {
		network = NewTransport(options.Insecure, DefaultStall)
	}
	keychain := options.Keychain
	if keychain == nil {
		keychain = anonymous{}
	}
	now := options.Clock
	if now == nil {
		now = time.Now
	}
	locations, _ := lru.New[reference.Repository, location](maxSessions) // the size is valid
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
		locations:   locations,
		noReferrers: newMemory(now),
		denials:     newMemory(now),
		heads:       newMemory(now),
		noPush:      newMemory(now),
		plainHTTP:   newMemory(now),
		redirects:   newMemory(now),
		declared:    newMemory(now),
	}
}

// anonymous is a Keychain without credentials.
type anonymous struct{}

func (anonymous) Find(context.Context, string) (containers.Credential, error) {
	return containers.Credential{}, nil
}
func (anonymous) Forget(string) {}

// location is the address of a repository, and the name under which its credentials are kept. The
// two differ for Docker Hub only.
type location struct {
	registry   name.Registry   // receives the requests
	repository name.Repository // has the name of the credentials
	named      string          // the registry's name in references
	insecure   bool
}

// path returns the repository's path at the registry, such as library/nginx.
func (l location) path() string { return l.repository.RepositoryStr() }

// credentialsOf returns the name under which the keychain finds the credentials.
func (l location) credentialsOf() string { return l.repository.Name() }

// locate returns the address of a repository. The error may be ErrBlocked.
func (c *Client) locate(repository reference.Repository) (location, error) {
	settings, err := containers.SettingsOf(repository.String())
	if err != nil {
		return location{}, err
	}
	if settings.Blocked {
		return location{}, fmt.Errorf("%s is %w", repository, ErrBlocked)
	}
	insecure := settings.Insecure || c.trust.named.Has(repository.Registry())
	if at, ok := c.locations.Get(repository); ok && at.insecure == insecure {
		return at, nil
	}
	at, err := locate(repository, insecure)
	if err == nil {
		c.locations.Add(repository, at)
	}
	return at, err
}

func locate(repository reference.Repository, insecure bool) (location, error) {
	host, known := repository.Registry(), repository.String()
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

// locateAPI returns the address of another API of the repository's registry. host is the host of
// that API.
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

// host returns the host that receives the requests for a repository.
func (c *Client) host(repository reference.Repository) (string, error) {
	at, err := c.locate(repository)
	if err != nil {
		return "", err
	}
	return at.registry.Name(), nil
}

// pushScope is the scope that skopeo requests for a destination.
const pushScope = "pull,push"

// role is what the client does with its registries.
type role int

const (
	source      role = iota // reads
	destination             // writes
	candidate               // reads a destination, and must not create repositories there
)

// Writing returns a client for destinations that shares the connections. It requests the scope to
// push even for reads. Some registries, such as Quay, create a repository for clients that may push,
// and answer others as if it existed. If a read is refused nevertheless, Absent is true for the
// error.
func (c *Client) Writing() *Client { return c.as(destination) }

// Comparing returns a client that only reads from destinations and shares the connections. If a read
// is refused, Absent is true for the error.
func (c *Client) Comparing() *Client { return c.as(candidate) }

func (c *Client) as(role role) *Client {
	other := *c
	other.role = role
	return &other
}

// Absent reports whether the error of a read means that the manifest or blob does not exist. At a
// destination, a refused read may mean that, too; the push shows whether it may be created.
func Absent(err error) bool { return errors.Is(err, ErrNotFound) || errors.Is(err, errHidden) }

// hiddenError is a refused read at a destination. It wraps errHidden and the refusal.
type hiddenError struct{ refusal error }

func (e *hiddenError) Error() string   { return e.refusal.Error() }
func (e *hiddenError) Unwrap() []error { return []error{errHidden, e.refusal} }
