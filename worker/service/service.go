// Package service assembles a worker, for the command worker and for `planner mirror`, and
// the checker of `planner check`.
package service

import (
	"context"
	"log/slog"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/chunk"
	"github.com/osism/skopeo-worker/worker/consume"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/deletion"
	"github.com/osism/skopeo-worker/worker/metrics"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/outage"
)

// Service is a worker.
type Service struct {
	Consumer *consume.Consumer

	metrics *metrics.Metrics
	budget  *budget.Store
}

// New returns a worker that takes chunks from the broker, and makes the endpoint report the state of
// the fleet and of the connection. store is the budget of the broker's fleet; the caller closes it after
// Run. The error is, for example, that skopeo is not installed.
func New(ctx context.Context, e *Endpoint, b *broker.Broker, store *budget.Store, c Config, r Registries, t Trust, log *slog.Logger) (*Service, error) {
	keychain := r.keychain()
	engine, err := c.engine(ctx, r, keychain, log)
	if err != nil {
		return nil, err
	}
	s := &Service{metrics: e.Metrics, budget: store}
	if s.Consumer, err = s.consumer(ctx, b, c, r, t, keychain, engine, log); err == nil {
		err = e.Watch(ctx, b, store, log)
	}
	if err != nil {
		return nil, err
	}
	log.Debug("worker is ready", "engine", c.Engine, "concurrency", c.Concurrency, "SIGNATURE_POLICY", t.Policy)
	return s, nil
}

// Watch makes the endpoint report the state of the fleet, and whether the broker is connected.
func (e *Endpoint) Watch(ctx context.Context, b *broker.Broker, store *budget.Store, log *slog.Logger) error {
	fleet, err := metrics.NewFleet(ctx, b, store, log)
	if err != nil {
		return err
	}
	e.Metrics.Watch(fleet)
	e.conn.Store(b.Conn)
	return nil
}

// consumer returns the consumer with its worker.
func (s *Service) consumer(ctx context.Context, b *broker.Broker, c Config, r Registries, t Trust, keychain *containers.Keychain, engine mirror.Engine, log *slog.Logger) (*consume.Consumer, error) {
	notes, err := consume.OpenNotes(ctx, b, log)
	if err != nil {
		return nil, err
	}
	failures := consume.OpenFailures(b, log)
	n := s.network(c, r, t, keychain, log)
	n.outages.Recorded = recorded(b, log)
	connect, err := n.connector(engine, notes)
	if err != nil {
		return nil, err
	}
	worker, err := chunk.New(chunk.Parts{
		Connect:     connect,
		Failures:    failures,
		Notes:       notes,
		Registries:  n.outages,
		Concurrency: c.Concurrency,
		MaxAttempts: c.MaxAttempts,
		Alone:       b.Embedded(),
		Backoff:     chunk.Backoff,
		Deletions:   deletion.NewHosts(r.QuayHosts, r.HarborHosts),
		Log:         log,
	})
	if err != nil {
		return nil, err
	}
	return consume.New(ctx, b, worker, failures, s.metrics, log)
}

// recorded returns an outage.Tracker.Recorded that reads what any worker of the broker's fleet has
// mirrored, in this run or in earlier ones.
func recorded(b *broker.Broker, log *slog.Logger) func(context.Context, string, map[reference.Repository]bool, int) ([]outage.Specimen, error) {
	return func(ctx context.Context, registry string, without map[reference.Repository]bool, n int) ([]outage.Specimen, error) {
		holdings, err := holding.Open(ctx, b, log)
		if err != nil {
			return nil, err
		}
		held, err := holdings.Some(ctx, registry, without, n)
		all := make([]outage.Specimen, len(held))
		for i, r := range held {
			all[i] = outage.Specimen{Source: r.Tags[0].Source, Destination: r.Destination, Digest: r.Tags[0].Digest}
		}
		return all, err
	}
}

// Run takes chunks until ctx ends; see consume.Consumer.Run.
func (s *Service) Run(ctx context.Context) error {
	return s.Consumer.Run(ctx)
}
