package credential

import (
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// dockerHub is the name of Docker Hub in this package and in auth.json.
const dockerHub = "docker.io"

// canonical gives the names of Docker Hub one spelling.
func canonical(host string) string {
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		return dockerHub
	}
	return host
}

// registryOf returns the registry a key stands for as a whole. A key that is a
// URL does, whatever its path; another one with a path stands for less.
func registryOf(key string) string {
	bare := strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	if bare != key {
		bare, _, _ = strings.Cut(bare, "/")
	}
	return canonical(bare)
}

// serverURL is what docker login calls a registry in a credential store.
func serverURL(host string) string {
	if host == dockerHub {
		return authn.DefaultAuthKey
	}
	return host
}
