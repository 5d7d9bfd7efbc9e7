// Package reference parses the names of images in lists and at destinations. All spellings of a
// repository become one name.
package reference

import (
	"errors"
	"fmt"

	dist "github.com/distribution/reference"
	lru "github.com/hashicorp/golang-lru/v2"
)

// digestTagHex is how many hex digits of a digest are in its tag at the destination. 48 bits are enough
// to distinguish the images of a repository.
const digestTagHex = 12

// ErrInvalid is returned for a text that is not the name of an image.
var ErrInvalid = errors.New("invalid reference")

// Reference is a repository with an optional tag and an optional digest. Without them it
// stands for all tags of the repository.
type Reference struct {
	Repository Repository
	Tag        Tag
	Digest     Digest
}

// Parse parses host/path[:tag][@digest]. Its error wraps ErrInvalid, gives the reason, and has no
// credentials.
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
	// The library would treat a first component in upper case as a host.
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

// ParseCanonical parses a reference in the spelling of String. Any other spelling is an error.
func ParseCanonical(s string) (Reference, error) {
	r, err := Parse(s)
	if err == nil && r.String() != s {
		return Reference{}, invalid(s, "expected "+r.String())
	}
	return r, err
}

// String returns the canonical spelling.
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

// DestinationTag returns the tag of the image at the destination. For a reference with only a digest, it
// is made of the digest, such as "sha256-0123456789ab", because registries delete manifests without a
// tag. For a whole repository it is zero, because its tags keep their names.
func (r Reference) DestinationTag() Tag {
	if !r.Tag.IsZero() || r.Digest.IsZero() {
		return r.Tag
	}
	return Tag{r.Digest.Algorithm() + "-" + r.Digest.Hex()[:digestTagHex]}
}

func invalid(s, why string) error {
	return fmt.Errorf("%w %s: %s", ErrInvalid, quote(s), why)
}

var errInvalidRepository = errors.New("invalid repository")

// Repository is a repository of a registry. The zero value stands for none.
type Repository struct{ registry, path string }

// repositories are those that were parsed last, by their text, because documents at the broker repeat
// them for each tag. A list has some thousands.
var repositories = must(lru.New[string, Repository](4096))

// ParseRepository parses host/path in the spelling of String. Its error has no credentials.
func ParseRepository(s string) (Repository, error) {
	if r, ok := repositories.Get(s); ok {
		return r, nil
	}
	r, err := parseRepository(s)
	if err == nil {
		repositories.Add(s, r)
	}
	return r, err
}

func parseRepository(s string) (Repository, error) {
	r, err := ParseCanonical(s)
	switch {
	case err != nil:
		return Repository{}, fmt.Errorf("%w: %w", errInvalidRepository, err)
	case !r.Tag.IsZero() || !r.Digest.IsZero():
		return Repository{}, fmt.Errorf("%w %s: expected neither a tag nor a digest", errInvalidRepository, quote(s))
	}
	return r.Repository, nil
}

// MustRepository is ParseRepository for constants, as in tests. It panics if the text is
// invalid.
func MustRepository(s string) Repository { return must(ParseRepository(s)) }

// Registry returns the canonical name of the registry, with an optional port.
func (r Repository) Registry() string { return r.registry }

// Path returns the repository's name at the registry, such as "library/nginx".
func (r Repository) Path() string { return r.path }

// String returns host/path, such as "docker.io/library/nginx", or "" for the zero value.
func (r Repository) String() string {
	if r.IsZero() {
		return ""
	}
	return r.registry + "/" + r.path
}

// IsZero reports whether r is the zero value.
func (r Repository) IsZero() bool { return r == Repository{} }

// MarshalText implements encoding.TextMarshaler.
func (r Repository) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRepository, except that an empty text gives the zero value.
func (r *Repository) UnmarshalText(text []byte) error {
	return unmarshal(r, text, ParseRepository)
}
