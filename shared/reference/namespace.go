package reference

import (
	"errors"
	"fmt"
	"strings"
)

// every is the end of the name of a Namespace. It stands for all repositories.
const every = "/*"

var errInvalidNamespace = errors.New("invalid namespace")

// Namespace is all repositories below a path of a registry.
type Namespace struct{ registry, path string }

// IsNamespace reports whether a text has an asterisk, and so is meant to be a Namespace.
func IsNamespace(s string) bool { return strings.Contains(s, "*") }

// ParseNamespace parses host/path/*, or host/* for all repositories of a registry. Without a host, the
// registry is Docker Hub. Its error has no credentials.
func ParseNamespace(s string) (Namespace, error) {
	fail := func(why string) (Namespace, error) {
		return Namespace{}, fmt.Errorf("%w %s: %s", errInvalidNamespace, quote(s), why)
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
		// A repository on the host parses only if the host is valid.
		r, err := Parse(host + "/any")
		switch {
		case err != nil:
			return fail(reasonOf(err))
		case r.Repository.registry == DockerHub:
			return fail("Docker Hub does not list all of its repositories; write docker.io/NAMESPACE/*")
		}
		return Namespace{registry: r.Repository.registry}, nil
	}
	// Parsing a repository of the namespace gives its path at the registry.
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

// Registry returns the host, as for a Repository.
func (n Namespace) Registry() string { return n.registry }

// Path returns the beginning of the paths of all repositories; "" for a whole registry.
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

// Repository returns a repository of the namespace by its path at the registry.
func (n Namespace) Repository(path string) (Repository, error) {
	r, err := ParseRepository(n.registry + "/" + path)
	if err != nil {
		return Repository{}, err
	}
	if _, ok := n.Has(r); !ok {
		return Repository{}, fmt.Errorf("%w %s: it is not in %s", errInvalidRepository, quote(r.String()), n)
	}
	return r, nil
}

// Address returns a repository at the registry of the namespace, for requests to the registry. The
// repository need not exist.
func (n Namespace) Address() Repository {
	if n.path == "" {
		return Repository{n.registry, "any"}
	}
	return Repository(n)
}
