package reference

import (
	"errors"
	"fmt"
)

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
