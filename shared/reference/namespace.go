package reference

import (
	"errors"
	"fmt"
	"strings"
)

// every stands for all repositories of a Namespace. It is the last part of its name.
const every = "/*"

// ErrInvalidNamespace is returned for a text that is not a Namespace.
var ErrInvalidNamespace = errors.New("invalid namespace")

// Namespace is all repositories below a path of a registry.
type Namespace struct{ registry, path string }

// IsNamespace reports whether a text is meant to be a Namespace: it has an asterisk.
func IsNamespace(s string) bool { return strings.Contains(s, "*") }

// ParseNamespace parses host/path/*, or host/* for all repositories of a registry. Without a
// host, the registry is Docker Hub. Its error wraps ErrInvalidNamespace and contains no
// credentials.
func ParseNamespace(s string) (Namespace, error) {
	fail := func(why string) (Namespace, error) {
		return Namespace{}, fmt.Errorf("%w %s: %s", ErrInvalidNamespace, quote(s), why)
	}
	if why := refuse(s); why != "" {
		return fail(why)
	}
	below, ok := strings.CutSuffix(s, every)
	if !ok || strings.Contains(below, "*") {
		return fail("the asterisk stands for all repositories of a namespace, so it is the whole last part of a name, as in quay.io/example/*")
	}
	host, path, hasHost := cutHost(below + "/")
	path = strings.TrimSuffix(path, "/")
	if hasHost && path == "" {
		// Any repository shows whether the host is one.
		r, err := Parse(host + "/any")
		switch {
		case err != nil:
			return fail(reasonOf(err))
		case r.Repository.registry == DockerHub:
			return fail("Docker Hub does not list all of its repositories; write docker.io/NAMESPACE/*")
		}
		return Namespace{registry: r.Repository.registry}, nil
	}
	// The name of a repository in it has the path that the registry uses.
	r, err := Parse(below + "/any")
	if err != nil {
		return fail(reasonOf(err))
	}
	return Namespace{registry: r.Repository.registry, path: strings.TrimSuffix(r.Repository.path, "/any")}, nil
}

// reasonOf returns the reason in an error of Parse.
func reasonOf(err error) string {
	_, why, found := strings.Cut(err.Error(), `": `)
	if !found {
		return err.Error()
	}
	return why
}

// Registry returns the host, as that of a Repository.
func (n Namespace) Registry() string { return n.registry }

// Path returns the path that all repositories begin with; "" for a whole registry.
func (n Namespace) Path() string { return n.path }

// String returns host/path/*.
func (n Namespace) String() string { return n.parent() + every }

func (n Namespace) parent() string {
	if n.path == "" {
		return n.registry
	}
	return n.registry + "/" + n.path
}

// Has reports whether a repository is in the namespace, and returns its path below it.
func (n Namespace) Has(r Repository) (below string, ok bool) {
	return strings.CutPrefix(r.String(), n.parent()+"/")
}

// Repository returns a repository of the namespace by its path at the registry. The error
// wraps ErrInvalidRepository.
func (n Namespace) Repository(path string) (Repository, error) {
	r, err := ParseRepository(n.registry + "/" + path)
	if err != nil {
		return Repository{}, err
	}
	if _, ok := n.Has(r); !ok {
		return Repository{}, fmt.Errorf("%w %s: it is not in %s", ErrInvalidRepository, quote(r.String()), n)
	}
	return r, nil
}

// Address returns a repository whose registry is that of the namespace, for requests that are
// about the registry. It need not exist.
func (n Namespace) Address() Repository {
	if n.path == "" {
		return Repository{n.registry, "any"}
	}
	return Repository(n)
}
