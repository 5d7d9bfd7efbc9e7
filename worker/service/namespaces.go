package service

import (
	"context"
	"log/slog"
	"time"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/chunk"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/throttle"
)

const (
	// namespaceTries is how often a namespace is listed if the errors are transient.
	namespaceTries = 4
	// namespacePause is the longest wait before a namespace is listed again.
	namespacePause = time.Minute
)

// Namespaces lists the repositories of namespaces, within the budgets of the broker.
type Namespaces struct {
	listing *listing.Listers
	budget  *budget.Store
}

// NewNamespaces returns a Namespaces. Close releases it.
func NewNamespaces(ctx context.Context, b *broker.Broker, r Registries, log *slog.Logger) (*Namespaces, error) {
	store, err := budget.Open(ctx, b, log)
	if err != nil {
		return nil, err
	}
	r.setRates(store)
	keychain := r.keychain()
	limiter := &throttle.Throttle{Budget: store, Identity: identity(keychain), Log: log}
	client := r.client(limiter.Transport(registry.NewTransport(r.Insecure, registry.DefaultStall), ""), keychain, 0, nil)
	return &Namespaces{listing: r.upstream(client, log).Listing, budget: store}, nil
}

// Close releases the budgets.
func (n *Namespaces) Close() { n.budget.Close() }

// List lists the repositories of a namespace. It retries after transient errors. The errors are those
// of listing.Listers.Repositories.
func (n *Namespaces) List(ctx context.Context, namespace reference.Namespace) (listing.Repositories, error) {
	for attempt := 1; ; attempt++ {
		found, err := n.listing.Repositories(ctx, namespace)
		class := outcome.Classify(err)
		after := outcome.RetryAfter(err)
		if err == nil || attempt == namespaceTries || after > namespacePause || class != outcome.Transient && class != outcome.Limited {
			return found, err
		}
		timer := time.NewTimer(max(min(chunk.Backoff(attempt), namespacePause), after))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return found, ctx.Err()
		}
	}
}
