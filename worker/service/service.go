// Package service puts a worker together, for the command worker and for
// `planner mirror`.
package service

import (
	"context"
	"log/slog"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/worker/chunk"
	"github.com/osism/skopeo-worker/worker/consume"
	"github.com/osism/skopeo-worker/worker/credential"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/metrics"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/resolve"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// userAgent is what registries see, beside skopeo's own.
const userAgent = "skopeo-worker"

// Service is a worker.
type Service struct {
	Consumer *consume.Consumer
	Metrics  *metrics.Metrics
}

// New checks that there is a skopeo, and returns a worker on the broker.
func New(ctx context.Context, b *broker.Broker, c Config, r Registries, log *slog.Logger) (*Service, error) {
	runner := &skopeo.Runner{Path: c.Skopeo, Insecure: r.Insecure, Timeout: c.CopyTimeout}
	version, err := runner.Version(ctx)
	if err != nil {
		return nil, err
	}
	client := registry.NewClient(registry.Options{Insecure: r.Insecure, Keychain: credential.New(), UserAgent: userAgent})
	m := metrics.New()
	consumer, err := consume.New(ctx, b, &chunk.Worker{
		Resolver: &resolve.Upstream{Registry: client, Listing: listing.New(listing.Options{
			Registry: client, QuayHosts: r.QuayHosts, Insecure: r.Insecure, UserAgent: userAgent, Log: log,
		})},
		Mirror:      &mirror.Mirror{Registry: client, Skopeo: runner},
		Concurrency: c.Concurrency,
		MaxAttempts: c.MaxAttempts,
		Backoff:     chunk.Backoff,
		Log:         log,
	}, m, log)
	if err != nil {
		return nil, err
	}
	log.Debug("worker is ready", "skopeo", version, "concurrency", c.Concurrency)
	return &Service{Consumer: consumer, Metrics: m}, nil
}

// Run takes chunks until ctx ends, and then finishes as it should.
func (s *Service) Run(ctx context.Context) error { return s.Consumer.Run(ctx) }
