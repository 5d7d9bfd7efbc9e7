// Package service puts a worker together, for the command worker and for
// `planner mirror`, and what of it `planner check` needs.
package service

import (
	"context"
	"log/slog"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/worker/chunk"
	"github.com/osism/skopeo-worker/worker/consume"
	"github.com/osism/skopeo-worker/worker/credential"
	"github.com/osism/skopeo-worker/worker/metrics"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/skopeo"
	"github.com/osism/skopeo-worker/worker/throttle"
)

// Service is a worker.
type Service struct {
	Consumer *consume.Consumer
	Metrics  *metrics.Metrics

	budget *budget.Store
}

// New checks that there is a skopeo, and returns a worker on the broker.
func New(ctx context.Context, b *broker.Broker, c Config, r Registries, log *slog.Logger) (*Service, error) {
	runner := &skopeo.Runner{Path: c.Skopeo, Insecure: r.Insecure, Timeout: c.CopyTimeout}
	version, err := runner.Version(ctx)
	if err != nil {
		return nil, err
	}
	store, err := budget.Open(ctx, b, log)
	if err != nil {
		return nil, err
	}
	guard := &throttle.Throttle{Budget: store, Identity: identity(credential.New()), Log: log}
	transport := guard.Transport(registry.NewTransport(r.Insecure))
	client := r.client(transport)
	m := metrics.New()
	consumer, err := consume.New(ctx, b, &chunk.Worker{
		Resolver:    r.upstream(client, transport, log),
		Mirror:      &mirror.Mirror{Registry: client, Skopeo: runner, Guard: guard.Copy},
		Concurrency: c.Concurrency,
		MaxAttempts: c.MaxAttempts,
		Backoff:     chunk.Backoff,
		Prepare: func(ctx context.Context, c message.Chunk) error {
			noteDestinations(guard, c.Repositories)
			return store.CatchUp(ctx)
		},
		Log: log,
	}, m, log)
	if err != nil {
		store.Close()
		return nil, err
	}
	log.Debug("worker is ready", "skopeo", version, "concurrency", c.Concurrency)
	return &Service{Consumer: consumer, Metrics: m, budget: store}, nil
}

// Run takes chunks until ctx ends, and then finishes as it should.
func (s *Service) Run(ctx context.Context) error {
	defer s.budget.Close()
	return s.Consumer.Run(ctx)
}
