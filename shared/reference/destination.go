package reference

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	dist "github.com/distribution/reference"
)

// ErrInvalidDestination is a text that names no destination registry.
var ErrInvalidDestination = errors.New("invalid destination")

const expectedDestination = "expected host[:port][/prefix]"

// Destination is the registry that is mirrored to, and the path below which
// the repositories land there.
type Destination struct {
	// Host is lower case, with a port if one was written.
	Host string
	// Prefix has no slash at either end, and may be empty.
	Prefix string
}

// ParseDestination reads host[:port][/prefix]. Its error wraps
// ErrInvalidDestination and shows no credentials.
func ParseDestination(s string) (Destination, error) {
	if why := refuseDestination(s); why != "" {
		return Destination{}, fmt.Errorf("%w %s: %s", ErrInvalidDestination, quote(s), why)
	}
	host, prefix, hasPrefix := strings.Cut(strings.TrimSuffix(s, "/"), "/")
	why := explainHost(host)
	switch {
	case why != "":
	case !strings.ContainsAny(host, ".:") && !strings.EqualFold(host, localhost):
		// Without a dot or a port, docker and skopeo take it for a namespace of Docker Hub.
		why = fmt.Sprintf("host %s has neither a dot nor a port, write %s:443 or its full name", Quote(host), host)
	case len(s) > dist.RepositoryNameTotalLengthMax:
		why = whyTooLong
	case hasPrefix:
		why = explainPrefix(prefix)
	}
	if why != "" {
		return Destination{}, fmt.Errorf("%w %s: %s", ErrInvalidDestination, quote(s), why)
	}
	return Destination{Host: canonicalHost(host), Prefix: prefix}, nil
}

// Repository is the name at the destination of a source's path,
// "127.0.0.1:5000/mirror/library/nginx". A long prefix and a long path can
// make a name that does not parse.
func (d Destination) Repository(path string) string {
	return d.String() + "/" + path
}

// String is the canonical spelling. ParseDestination gives the same for it.
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
