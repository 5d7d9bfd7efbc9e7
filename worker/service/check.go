package service

import (
	"log/slog"

	"github.com/osism/skopeo-worker/worker/check"
	"github.com/osism/skopeo-worker/worker/chunk"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/registry"
)

// NewChecker returns what compares as a worker does, and copies nothing. It needs
// neither a broker nor skopeo.
func NewChecker(r Registries, log *slog.Logger) *check.Checker {
	network := registry.NewTransport(r.Insecure)
	return &check.Checker{
		Resolver: r.upstream(r.client(check.WithoutPulls(network)), network, log),
		Mirror:   &mirror.Mirror{Registry: r.client(network)},
		Backoff:  chunk.Backoff,
	}
}
