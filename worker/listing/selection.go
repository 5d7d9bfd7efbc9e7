package listing

import (
	"log/slog"
	"net/http"
	"strings"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// quayIO is the public Quay. Its OCI and its own API share the host
// (docs.quay.io/api).
const quayIO = "quay.io"

// Options say how to list.
type Options struct {
	// Registry speaks the OCI API: to registries that have nothing else, and
	// where another API does not answer.
	Registry *registry.Client
	// QuayHosts are the registries besides quay.io, host[:port], that are Quay.
	QuayHosts []string
	// UserAgent is what we call ourselves.
	UserAgent string
	// Transport is the network; nil is registry.NewTransport(nil, registry.DefaultStall). What paces
	// or counts requests wraps it.
	Transport http.RoundTripper
	// Log is told once for each registry and cause that its bulk listing cannot
	// be used; nil is slog.Default().
	Log *slog.Logger
}

// Selection is the listers there are. It is safe for concurrent use.
type Selection struct {
	oci       *OCI
	quay      *Quay
	hub       *Hub
	quayHosts map[string]bool
}

// New returns a selection. It does not talk to anyone yet.
func New(options Options) *Selection {
	if options.Log == nil {
		options.Log = slog.Default()
	}
	if options.Transport == nil {
		options.Transport = registry.NewTransport(nil, registry.DefaultStall)
	}
	shared := &bulk{api: newAPI(options), oci: &OCI{options.Registry}, log: options.Log}
	return &Selection{
		oci:       shared.oci,
		quay:      &Quay{shared},
		hub:       &Hub{shared},
		quayHosts: hostSet(append([]string{quayIO}, options.QuayHosts...)),
	}
}

// For returns the lister that tells most about a repository: Hub for docker.io,
// Quay for quay.io and the QuayHosts, else OCI.
func (s *Selection) For(repository reference.Repository) Lister {
	switch host := repository.Registry(); {
	case host == reference.DockerHub:
		return s.hub
	case s.quayHosts[host]:
		return s.quay
	default:
		return s.oci
	}
}

// OCI returns the lister that every registry has, whatever else it offers.
func (s *Selection) OCI() Lister { return s.oci }

// hostSet is hosts as users write them, in the spelling of reference.Repository.
func hostSet(hosts []string) map[string]bool {
	set := make(map[string]bool, len(hosts))
	for _, host := range hosts {
		set[strings.ToLower(strings.TrimSpace(host))] = true
	}
	return set
}
