package outage

import (
	"context"
	"fmt"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
)

// enter waits until an activity may begin at a registry; leave ends it. If the registry is away,
// this worker holds the lease, and the activity is the one that had failed, it is a probe. Only one
// probe at a time may run. Other activities prove nothing and do not wait.
func (t *Tracker) enter(ctx context.Context, p place, repository reference.Repository) (leave func(), err error) {
	for {
		waits, err := t.permit(ctx, p.registry)
		if err != nil {
			return nil, err
		}
		if waits == "" || waits != budget.Answer && waits != p.activity {
			return func() {}, nil
		}
		turn := t.turn(&t.probings, p.registry)
		if turn.Acquire(ctx, 1) != nil {
			return nil, context.Cause(ctx)
		}
		// The last probe may have changed the state.
		again, err := t.permit(ctx, p.registry)
		switch {
		case err != nil:
			turn.Release(1)
			return nil, err
		case again != waits:
			turn.Release(1)
		case waits == budget.Answer:
			err := t.reach(ctx, repository, time.Now(), false)
			turn.Release(1)
			if err != nil {
				return nil, err
			}
		default:
			stop := t.hold(ctx, p.registry)
			return func() { stop(); turn.Release(1) }, nil
		}
	}
}

// hold renews the lease for probes until stop is called.
func (t *Tracker) hold(ctx context.Context, registry string) (stop func()) {
	ctx, stop = context.WithCancel(ctx)
	go func() {
		ticker := time.NewTicker(renewal)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if _, err := t.permit(ctx, registry); err != nil {
					t.Log.Debug("renewing the lease to probe a registry", "registry", registry, "error", err)
				}
			}
		}
	}()
	return stop
}

// reach asks a registry whether it is alive, unless it has answered after the given time. If it is
// not alive, reach closes it and returns a *budget.SpentError. Any other error means that the
// request was not sent. If sure is true, only an answer that a proxy cannot give counts.
func (t *Tracker) reach(ctx context.Context, repository reference.Repository, since time.Time, sure bool) error {
	registry := repository.Registry()
	t.mu.Lock()
	alive := t.alive[registry]
	t.mu.Unlock()
	if alive.After(since) {
		return nil
	}
	asked := time.Now()
	err := t.Registry.Alive(ctx, repository, sure)
	if _, suspected := t.suspect(err); suspected {
		return t.away(ctx, place{registry, budget.Answer}, asked, err)
	}
	if class := outcome.Classify(err); err != nil && (class == outcome.Limited || class == outcome.Interrupted) {
		return err
	}
	// Any other error is an answer.
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.alive == nil {
		t.alive = map[string]time.Time{}
	}
	t.alive[registry] = asked
	t.Budget.Back(registry, budget.Answer, asked)
	return nil
}

// away closes the registry for the fleet, and returns a *budget.SpentError. Any other error is the
// broker's.
func (t *Tracker) away(ctx context.Context, p place, started time.Time, cause error) error {
	o := budget.Outage{Registry: p.registry, Activity: p.activity, Reason: outcome.Reason(cause), Started: started}
	if err := t.Budget.Away(ctx, o); err != nil {
		if closed := spent(err); closed != nil {
			return closed
		}
		return fmt.Errorf("%s: %w: %w", p.registry, budget.ErrBroker, err)
	}
	t.forget(p.registry)
	if closed := t.Budget.IsAway(p.registry); closed != nil {
		return closed
	}
	return nil // the registry already works again
}
