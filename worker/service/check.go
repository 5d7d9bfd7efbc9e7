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
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/throttle"
)

// Checker compares images with their destinations as a worker does, but copies nothing. It does not
// need skopeo.
type Checker struct {
	checker  *check.Checker
	throttle *throttle.Throttle
	budget   *budget.Store
}

// NewChecker returns a checker that uses the budgets and the workers' notes at the broker. limits, by
// registry, override the limits that are stored there. If signatures, the checker verifies all images,
// which takes pulls.
func NewChecker(ctx context.Context, b *broker.Broker, r Registries, t Trust, signatures bool, limits map[string]budget.Limit, log *slog.Logger) (*Checker, error) {
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
	who := identity(keychain)
	limiter := &throttle.Throttle{Budget: store, Identity: who, Log: log}
	network := limiter.Transport(registry.NewTransport(r.Insecure, registry.DefaultStall), "")
	source := r.client(check.WithoutPulls(network), keychain, 0, nil)
	upstream := r.upstream(source, log)
	verifying := source
	if signatures {
		verifying = r.client(network, keychain, 0, nil)
	}
	trusting := mirror.NewVerifying(verifying, t.verifier(verifying, network, nil))
	c := &Checker{throttle: limiter, budget: store, checker: &check.Checker{
		Resolver: upstream,
		Mirror:   mirror.NewComparing(source, r.client(network, keychain, 0, nil).Comparing(), upstream.Listing, limiter.Unlimited),
		Notes:    notes.Once(),
		Allowance: func(ctx context.Context, registry string) (budget.Allowance, error) {
			return store.Allowance(ctx, registry, who(registry), limits[registry])
		},
		Signatures: signatures,
		Backoff:    chunk.Backoff,
	}}
	if !trusting.IsTrusting() {
		c.checker.Verify = trusting.Verify
	}
	return c, nil
}

// Check returns what a run of the list would do. progress is check.Checker.Progress; it is optional.
func (c *Checker) Check(ctx context.Context, list []message.Repository, progress func(done, total int)) (check.Report, error) {
	noteDestinations(c.throttle, list)
	c.checker.Progress = progress
	return c.checker.Check(ctx, list)
}

// Access returns, for the registries of the list, whether they permit what a run needs.
func (c *Checker) Access(ctx context.Context, list []message.Repository) ([]check.Access, error) {
	noteDestinations(c.throttle, list)
	return c.checker.Access(ctx, list)
}

// Close releases the budgets.
func (c *Checker) Close() { c.budget.Close() }

// noteDestinations makes the throttle treat registries that are only destinations of the list as such.
func noteDestinations(t *throttle.Throttle, list []message.Repository) {
	sources := map[string]bool{}
	for _, r := range list {
		sources[r.Source.Registry()] = true
	}
	for _, r := range list {
		if !sources[r.Destination.Registry()] {
			t.Destination(r.Destination)
		}
	}
}
