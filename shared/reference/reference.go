// Package reference names images: where they come from, as a list writes them,
// and where they go. Every spelling of one repository gives one name.
package reference

import (
	"errors"
	"fmt"

	dist "github.com/distribution/reference"
)

// digestTagHex is how many hex digits of a digest name its tag at the
// destination: 48 bits, so that two in one repository do not meet.
const digestTagHex = 12

// ErrInvalid is a text that names no image.
var ErrInvalid = errors.New("invalid reference")

// Reference names a repository and at most one tag and one digest. With
// neither it stands for every tag of the repository.
type Reference struct {
	Repository Repository
	Tag        Tag
	Digest     Digest
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
		name = CanonicalHost(host) + "/" + rest
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
	r := Reference{Repository: Repository{registry: dist.Domain(named), path: dist.Path(named)}}
	if tagged, ok := named.(dist.Tagged); ok {
		if r.Tag, err = ParseTag(tagged.Tag()); err != nil {
			return Reference{}, invalid(s, err.Error())
		}
	}
	if digested, ok := named.(dist.Digested); ok {
		if r.Digest, err = ParseDigest(digested.Digest().String()); err != nil {
			return Reference{}, invalid(s, err.Error())
		}
	}
	return r, nil
}

// ParseCanonical is Parse for what String has written: another spelling is an error, so
// that nothing is mirrored from or to where it does not say.
func ParseCanonical(s string) (Reference, error) {
	r, err := Parse(s)
	if err == nil && r.String() != s {
		return Reference{}, invalid(s, "expected "+r.String())
	}
	return r, err
}

// String is the canonical spelling. Parse gives the same reference for it.
func (r Reference) String() string {
	s := r.Repository.String()
	if !r.Tag.IsZero() {
		s += ":" + r.Tag.String()
	}
	if !r.Digest.IsZero() {
		s += "@" + r.Digest.String()
	}
	return s
}

// DestinationTag is the tag that the image gets at the destination. What is
// named by digest alone gets one made of the digest, such as
// "sha256-0123456789ab", because registries collect what has no tag. It is
// empty for a whole repository, whose tags keep their names.
func (r Reference) DestinationTag() Tag {
	if !r.Tag.IsZero() || r.Digest.IsZero() {
		return r.Tag
	}
	return Tag{r.Digest.Algorithm() + "-" + r.Digest.Hex()[:digestTagHex]}
}

func invalid(s, why string) error {
	return fmt.Errorf("%w %s: %s", ErrInvalid, quote(s), why)
}

// ErrInvalidRepository is a text that names no repository.
var ErrInvalidRepository = errors.New("invalid repository")

// Repository is a repository of a registry. The zero value is none at all.
type Repository struct{ registry, path string }

// ParseRepository reads host/path in the one spelling that String gives: nothing is
// added to it. Its error wraps ErrInvalidRepository and shows no credentials.
func ParseRepository(s string) (Repository, error) {
	r, err := ParseCanonical(s)
	switch {
	case err != nil:
		return Repository{}, fmt.Errorf("%w: %w", ErrInvalidRepository, err)
	case !r.Tag.IsZero() || !r.Digest.IsZero():
		return Repository{}, fmt.Errorf("%w %s: expected neither a tag nor a digest", ErrInvalidRepository, quote(s))
	}
	return r.Repository, nil
}

// MustRepository is ParseRepository for texts that are known to be repositories, such
// as those of a test. It panics where one is none.
func MustRepository(s string) Repository { return must(ParseRepository(s)) }

// Registry is the host, lower case, with a port if one was written. All names of
// Docker Hub are DockerHub here.
func (r Repository) Registry() string { return r.registry }

// Path is the repository below the registry, "library/nginx".
func (r Repository) Path() string { return r.path }

// String is host/path, "docker.io/library/nginx", empty for the zero value.
func (r Repository) String() string {
	if r.IsZero() {
		return ""
	}
	return r.registry + "/" + r.path
}

// IsZero reports whether there is no repository.
func (r Repository) IsZero() bool { return r == Repository{} }

// MarshalText is for JSON and logs.
func (r Repository) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRepository, but that an empty text is the zero value.
func (r *Repository) UnmarshalText(text []byte) error {
	return unmarshal(r, text, ParseRepository)
}
