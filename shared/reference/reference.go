// Package reference names images: where they come from, as a list writes them,
// and where they go. Every spelling of one repository gives one name.
package reference

import (
	// The digest algorithms a reference may name are those linked in.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"fmt"
	"strings"

	dist "github.com/distribution/reference"
)

// DockerHub is the canonical name of Docker Hub's registry. An entry without
// a host is one of Docker Hub's.
const DockerHub = "docker.io"

// digestTagHex is how many hex digits of a digest name its tag at the
// destination: 48 bits, so that two in one repository do not meet.
const digestTagHex = 12

// ErrInvalid is a text that names no image.
var ErrInvalid = errors.New("invalid reference")

// Reference names a repository and at most one tag and one digest. With
// neither it stands for every tag of the repository.
type Reference struct {
	// Registry is the host, lower case, with a port if one was written. All
	// names of Docker Hub are DockerHub here.
	Registry string
	// Path is the repository below the registry, "library/nginx".
	Path   string
	Tag    string
	Digest string
}

// Parse reads host/path[:tag][@digest]. Its error wraps ErrInvalid, says in
// words what is wrong, and shows no credentials.
func Parse(s string) (Reference, error) {
	if why := refuse(s); why != "" {
		return Reference{}, invalid(s, why)
	}
	host, rest, hasHost := cutHost(s)
	name := s
	if hasHost {
		if why := explainHost(host); why != "" {
			return Reference{}, invalid(s, why)
		}
		name = canonicalHost(host) + "/" + rest
	}
	named, err := dist.ParseNormalizedNamed(name)
	if err != nil {
		return Reference{}, invalid(s, explain(rest, err))
	}
	// The library takes a first component in upper case for a host.
	if !hasHost && dist.Domain(named) != DockerHub {
		return Reference{}, invalid(s, whyUpperCase)
	}
	if len(named.Name()) > dist.RepositoryNameTotalLengthMax {
		return Reference{}, invalid(s, whyTooLong)
	}
	r := Reference{Registry: dist.Domain(named), Path: dist.Path(named)}
	if tagged, ok := named.(dist.Tagged); ok {
		r.Tag = tagged.Tag()
	}
	if digested, ok := named.(dist.Digested); ok {
		r.Digest = digested.Digest().String()
	}
	return r, nil
}

// Repository is the registry and the path, "docker.io/library/nginx".
func (r Reference) Repository() string {
	return r.Registry + "/" + r.Path
}

// String is the canonical spelling. Parse gives the same reference for it.
func (r Reference) String() string {
	s := r.Repository()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// DestinationTag is the tag that the image gets at the destination. What is
// named by digest alone gets one made of the digest, such as
// "sha256-0123456789ab", because registries collect what has no tag. It is
// empty for a whole repository, whose tags keep their names.
func (r Reference) DestinationTag() string {
	if r.Tag != "" || r.Digest == "" {
		return r.Tag
	}
	algorithm, hex, _ := strings.Cut(r.Digest, ":")
	return algorithm + "-" + hex[:min(digestTagHex, len(hex))]
}

func invalid(s, why string) error {
	return fmt.Errorf("%w %s: %s", ErrInvalid, quote(s), why)
}
