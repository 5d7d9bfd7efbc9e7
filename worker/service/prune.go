package service

import (
	"context"
	"log/slog"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/check"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/consume"
	"github.com/osism/skopeo-worker/worker/deletion"
	"github.com/osism/skopeo-worker/worker/prune"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/resolve"
	"github.com/osism/skopeo-worker/worker/throttle"
)

// Pruner has the clients with which to prune the destinations of a list, within the limits that the
// workers of the broker share.
type Pruner struct {
	Registry *registry.Client // for the destination
	Hosts    deletion.Hosts
	Select   func(ctx context.Context, r message.Repository) ([]reference.Tag, error) // of prune.Survey

	budget *budget.Store
}

// NewPruner returns a pruner for the entries of a list.
func NewPruner(ctx context.Context, b *broker.Broker, r Registries, list []message.Repository, log *slog.Logger) (*Pruner, error) {
	notes, err := consume.OpenNotes(ctx, b, log)
	if err != nil {
		return nil, err
	}
	store, err := budget.Open(ctx, b, log)
	if err != nil {
		return nil, err
	}
	r.setRates(store)
	keychain := r.keychain()
	limiter := &throttle.Throttle{Budget: store, Identity: identity(keychain), Log: log}
	noteDestinations(limiter, list)
	network := limiter.Transport(registry.NewTransport(r.Insecure, registry.DefaultStall), "")
	guard := prune.Guard(prune.Sleep)
	source := r.client(check.WithoutPulls(network), keychain, 0, guard)
	return &Pruner{Registry: r.client(network, keychain, 0, guard), Hosts: deletion.NewHosts(r.QuayHosts, r.HarborHosts), Select: selecting(r.upstream(source, log), notes), budget: store}, nil
}

// Close releases the budgets.
func (p *Pruner) Close() { p.budget.Close() }

// selecting returns a prune.Survey.Select. Its error is resolve.ErrFewTags if the source lists far
// fewer tags than workers have seen.
func selecting(upstream *resolve.Upstream, notes *consume.Notes) func(context.Context, message.Repository) ([]reference.Tag, error) {
	return func(ctx context.Context, r message.Repository) ([]reference.Tag, error) {
		found, err := upstream.Select(ctx, r)
		if err != nil {
			return nil, err
		}
		last, err := notes.Counted(ctx, r.Source)
		if err == nil {
			err = compare.Few(r, found, last)
		}
		return found.Selected, err
	}
}
