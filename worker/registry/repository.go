package registry

import (
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
)

// dockerHub is where the OCI API of docker.io is served. docker.io and
// index.docker.io are names for it.
const dockerHub = "registry-1.docker.io"

// hubNames are the names of Docker Hub that appear in references.
var hubNames = map[string]bool{"docker.io": true, name.DefaultRegistry: true, dockerHub: true}

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
	insecure := settings.Insecure || c.trust.named.has(host)
	options := []name.Option{name.WeakValidation}
	if insecure {
		options = append(options, name.Insecure)
	}
	if hubNames[host] {
		known = name.DefaultRegistry + "/" + repository.Path()
	}
	parsed, err := name.NewRepository(known, options...)
	if err != nil {
		return location{}, fmt.Errorf("%w: %w", ErrName, err)
	}
	host = parsed.RegistryStr()
	if hubNames[host] {
		host = dockerHub
	}
	registry, err := name.NewRegistry(host, options...)
	if err != nil {
		return location{}, fmt.Errorf("%w: %w", ErrName, err)
	}
	return location{registry: registry, repository: parsed, named: repository.Registry(), insecure: insecure}, nil
}

// Allowed returns why a repository is not to be talked to; it may be ErrBlocked.
func (c *Client) Allowed(repository reference.Repository) error {
	_, err := c.locate(repository)
	return err
}

// host is the registry that is asked for a repository.
func (c *Client) host(repository reference.Repository) (string, error) {
	at, err := c.locate(repository)
	if err != nil {
		return "", err
	}
	return at.registry.Name(), nil
}

// hostSet is a set of registries as a user writes them: host or host:port.
type hostSet map[string]bool

func newHostSet(hosts []string) hostSet {
	set := make(hostSet, len(hosts))
	for _, host := range hosts {
		host = strings.ToLower(strings.TrimSpace(host))
		if hubNames[host] {
			for alias := range hubNames {
				set[alias] = true
			}
		}
		set[host] = true
	}
	return set
}

func (s hostSet) has(host string) bool { return s[strings.ToLower(host)] }
