package service

import (
	"context"
	"log/slog"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/worker/check"
	"github.com/osism/skopeo-worker/worker/chunk"
	"github.com/osism/skopeo-worker/worker/consume"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/throttle"
)

// Checker compares as a worker does, and copies nothing. It needs no skopeo.
type Checker struct {
	*check.Checker

	guard  *throttle.Throttle
	budget *budget.Store
}

// NewChecker returns a checker that spends from the budgets of the broker, and knows
// what its workers have noted. The limits, by registry, go before what is known there.
func NewChecker(ctx context.Context, b *broker.Broker, r Registries, limits map[string]budget.Limit, log *slog.Logger) (*Checker, error) {
	notes, err := consume.OpenNotes(ctx, b, log)
	if err != nil {
		return nil, err
	}
	store, err := budget.Open(ctx, b, log)
	if err != nil {
		return nil, err
	}
	keychain := containers.New()
	who := identity(keychain)
	guard := &throttle.Throttle{Budget: store, Identity: who, Log: log}
	network := guard.Transport(registry.NewTransport(r.Insecure, registry.DefaultStall), "")
	source := r.client(check.WithoutPulls(network), keychain, 0, nil)
	return &Checker{guard: guard, budget: store, Checker: &check.Checker{
		Resolver: r.upstream(source, log),
		Mirror:   &mirror.Mirror{Registry: source, Destination: r.client(network, keychain, 0, nil).Comparing()},
		Absent:   notes.Once().Absent,
		Allowance: func(ctx context.Context, registry string) (budget.Allowance, error) {
			return store.Allowance(ctx, registry, who(registry), limits[registry])
		},
		Backoff: chunk.Backoff,
	}}, nil
}

// Check asks for the repositories of a list.
func (c *Checker) Check(ctx context.Context, list []message.Repository) (check.Report, error) {
	noteDestinations(c.guard, list)
	return c.Checker.Check(ctx, list)
}

// Close ends following what the broker knows.
func (c *Checker) Close() { c.budget.Close() }

// noteDestinations tells the guard of the registries that are written to, where
// nothing is read from them.
func noteDestinations(guard *throttle.Throttle, list []message.Repository) {
	sources := map[string]bool{}
	for _, r := range list {
		sources[r.Source.Registry()] = true
	}
	for _, r := range list {
		if !sources[r.Destination.Registry()] {
			guard.Destination(r.Destination)
		}
	}
}
