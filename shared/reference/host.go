package reference

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	dist "github.com/distribution/reference"
)

// localhost is the only host that needs neither a dot nor a port, as in docker.
const localhost = "localhost"

// maxHost is the length of the longest host name (RFC 1035, section 2.3.4).
const maxHost = 253

// maxPort is the highest TCP port.
const maxPort = 65535

// domain matches a host: the library's expression, for a whole text.
var domain = regexp.MustCompile(`^(?:` + dist.DomainRegexp.String() + `)$`)

// cutHost splits the host, with its port, off a reference. As in docker, the first component
// is a host if it contains a dot or a colon or is localhost.
func cutHost(s string) (host, rest string, ok bool) {
	first, rest, slash := strings.Cut(s, "/")
	if slash && (strings.ContainsAny(first, ".:") || strings.EqualFold(first, localhost)) {
		return first, rest, true
	}
	return "", s, false
}

// Hosts of Docker Hub (docs.docker.com/docker-hub and its API reference).
const (
	// DockerHub is the canonical name of Docker Hub's registry. It is the default host of an
	// entry.
	DockerHub = "docker.io"
	// DockerHubRegistry serves the OCI API of DockerHub.
	DockerHubRegistry = "registry-1.docker.io"
	// DockerHubAPI lists tags with their digests.
	DockerHubAPI = "hub.docker.com"

	dockerHubIndex  = "index.docker.io" // an older name, under which files have credentials
	dockerHubTokens = "auth.docker.io"
)

// CanonicalHost returns the canonical name of a registry, host[:port]: in lower case, and DockerHub for
// the other names of Docker Hub's registry.
func CanonicalHost(host string) string {
	host = strings.ToLower(host)
	if host == dockerHubIndex || host == DockerHubRegistry {
		return DockerHub
	}
	return host
}

// RegistryOf returns the canonical name of the registry that a host belongs to. It includes Docker Hub's
// hosts for tokens and for its API.
func RegistryOf(host string) string {
	host = CanonicalHost(host)
	if host == dockerHubTokens || host == DockerHubAPI {
		return DockerHub
	}
	return host
}

// Hosts is a set of registries, by their canonical names.
type Hosts map[string]bool

// NewHosts returns a set of hosts.
func NewHosts(hosts []string) Hosts {
	set := make(Hosts, len(hosts))
	for _, host := range hosts {
		set[CanonicalHost(strings.TrimSpace(host))] = true
	}
	return set
}

// Has reports whether a host is in the set, by any of its names.
func (h Hosts) Has(host string) bool { return h[CanonicalHost(host)] }

// explainHost returns why a host with an optional port is invalid, or "".
func explainHost(hostport string) string {
	host, port, hasPort := cutPort(hostport)
	if hasPort && !validPort(port) {
		return fmt.Sprintf("port %s is invalid, expected a number from 1 to %d", Quote(port), maxPort)
	}
	if !validHost(host) {
		return Quote(host) + " is not a host name"
	}
	return ""
}

func cutPort(hostport string) (host, port string, ok bool) {
	if strings.HasPrefix(hostport, "[") {
		address, after, _ := strings.Cut(hostport, "]")
		if after == "" {
			return hostport, "", false
		}
		return address + "]", strings.TrimPrefix(after, ":"), true
	}
	return strings.Cut(hostport, ":")
}

// validPort rejects leading zeros, so that a port has one spelling.
func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == port
}

func validHost(host string) bool {
	if len(host) > maxHost || !domain.MatchString(host) {
		return false
	}
	if address, ok := strings.CutPrefix(host, "["); ok {
		ip, err := netip.ParseAddr(strings.TrimSuffix(address, "]"))
		return err == nil && ip.Is6()
	}
	// A name whose last label is a number is an IPv4 address, because no top-level domain is a
	// number (RFC 3696, section 2).
	last := host[strings.LastIndex(host, ".")+1:]
	if strings.Trim(last, "0123456789") == "" {
		ip, err := netip.ParseAddr(host)
		return err == nil && ip.Is4()
	}
	return true
}

// ErrInvalidDestination is returned for a text that is not a destination.
var ErrInvalidDestination = errors.New("invalid destination")

const expectedDestination = "expected host[:port][/prefix]"

// Destination is the registry that images are mirrored to, and the path of their repositories there.
type Destination struct {
	// Host is the canonical name of the registry, with an optional port.
	Host string
	// Prefix has no slash at either end. It is optional.
	Prefix string
}

// ParseDestination parses host[:port][/prefix]. Its error wraps ErrInvalidDestination and has no
// credentials.
func ParseDestination(s string) (Destination, error) {
	if why := refuseDestination(s); why != "" {
		return Destination{}, fmt.Errorf("%w %s: %s", ErrInvalidDestination, quote(s), why)
	}
	host, prefix, hasPrefix := strings.Cut(strings.TrimSuffix(s, "/"), "/")
	why := explainHost(host)
	switch {
	case why != "":
	case !strings.ContainsAny(host, ".:") && !strings.EqualFold(host, localhost):
		// docker and skopeo treat such a name as a namespace of Docker Hub.
		why = fmt.Sprintf("host %s has neither a dot nor a port, write %s:443 or its full name", Quote(host), host)
	case len(s) > dist.RepositoryNameTotalLengthMax:
		why = whyTooLong
	case hasPrefix:
		why = explainPrefix(prefix)
	}
	if why != "" {
		return Destination{}, fmt.Errorf("%w %s: %s", ErrInvalidDestination, quote(s), why)
	}
	return Destination{Host: CanonicalHost(host), Prefix: prefix}, nil
}

// Repository returns the name of a repository at the destination, such as
// "127.0.0.1:5000/mirror/library/nginx". The name may be too long to be valid.
func (d Destination) Repository(path string) string {
	return d.String() + "/" + path
}

// String returns the canonical spelling.
func (d Destination) String() string {
	if d.Prefix == "" {
		return d.Host
	}
	return d.Host + "/" + d.Prefix
}

func refuseDestination(s string) string {
	if s == "" {
		return "it is empty, " + expectedDestination
	}
	if strings.Contains(s, "@") {
		return "neither credentials nor a digest belong here, " + expectedDestination
	}
	if scheme := schemeOf(s); scheme != "" {
		return "write host[:port]/prefix without " + scheme
	}
	if strings.ContainsFunc(s, unicode.IsSpace) {
		return "it has white space in it"
	}
	return ""
}

func explainPrefix(prefix string) string {
	if strings.Contains(prefix, ":") {
		return "a tag does not belong here, " + expectedDestination
	}
	return explainPath(prefix)
}
