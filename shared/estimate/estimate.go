// Package estimate estimates when a run is done, by the limits of registries and the pulls that
// are left.
package estimate

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/run"
)

// Registries returns the registries that budget.Store.Standings returns, sorted by name.
func Registries(ctx context.Context, b *budget.Store) ([]run.Registry, error) {
	standings, err := b.Standings(ctx)
	if err != nil {
		return nil, err
	}
	var rows []run.Registry
	for _, s := range standings {
		rows = append(rows, row(s))
	}
	return rows, nil
}

func row(s budget.Standing) run.Registry {
	r := run.Registry{Registry: s.Registry, Limit: s.Limit.Requests, Window: s.Limit.Per(), Spent: s.Spent, Reason: s.Reason}
	if s.Counted {
		r.Free = new(max(0, s.Limit.Requests-s.Spent))
	}
	if !s.NextSlot.IsZero() {
		r.NextSlot = &s.NextSlot
	}
	if s.Closed {
		r.ClosedUntil = &s.ClosedUntil
	}
	if !s.ClosedSince.IsZero() {
		r.ClosedSince = &s.ClosedSince
	}
	if !s.RefusedSince.IsZero() {
		r.RefusedSince = &s.RefusedSince
	}
	return r
}

// Describe adds to the status of a run the limits of the registries, and the earliest time at which
// they allow the run to finish.
func Describe(ctx context.Context, b *budget.Store, status *run.Status) error {
	standings, err := b.Standings(ctx)
	if err != nil {
		return err
	}
	all, identities := map[string]run.Registry{}, map[string]string{}
	for _, s := range standings {
		all[s.Registry], identities[s.Registry] = row(s), s.Identity
	}
	for _, left := range status.Registries {
		r, err := leftAt(ctx, b, all[left.Registry], identities[left.Registry], left)
		if err != nil {
			return err
		}
		all[left.Registry] = r
		if r.EstimatedDone != nil {
			status.NotBefore(*r.EstimatedDone)
		}
		status.EstimatedAtLeast = status.EstimatedAtLeast || left.ToPullAtLeast
	}
	status.Registries = status.Registries[:0]
	for _, name := range slices.Sorted(maps.Keys(all)) {
		status.Registries = append(status.Registries, all[name])
	}
	if status.EstimatedDone != nil && !status.EstimatedDone.After(b.Now()) {
		status.EstimatedDone = nil
	}
	return nil
}

// leftAt adds to a registry the pulls that are left of a run.
func leftAt(ctx context.Context, b *budget.Store, r run.Registry, identity string, left run.Registry) (run.Registry, error) {
	a, err := b.Allowance(ctx, left.Registry, identity, budget.Limit{})
	if err != nil {
		return r, err
	}
	if r.Limit == 0 && a.Origin != budget.None {
		r.Limit, r.Window = a.Limit.Requests, a.Limit.Per()
	}
	r.Registry, r.ToPull, r.ToPullAtLeast = left.Registry, left.ToPull, left.ToPullAtLeast
	last, err := Last(ctx, a, max(1, left.ToPull))
	if err == nil && last.After(b.Now()) {
		r.EstimatedDone = &last
	}
	return r, err
}

// Last returns when, by the broker's clock, the last of n pulls can be made if each is made as soon
// as it is allowed; n is 1 or more. If there is no limit, that is the time at which the registry is
// open.
func Last(ctx context.Context, a budget.Allowance, n int) (time.Time, error) {
	if a.Origin == budget.None {
		return a.Open, nil
	}
	if !a.Counted() {
		return a.Open.Add(time.Duration(n-1) * a.Limit.Window / time.Duration(a.Limit.Requests)), nil
	}
	return last(a.Open, a.Limit.Requests, a.Held, a.Spent, n, func(i int) (time.Time, error) { return a.Expires(ctx, i) })
}

// last returns when the last of n pulls can be made. The first is made no earlier than from. A
// window holds at most limit tokens, each for the time held. spent tokens are in it; expires
// returns when the i-th oldest of them expires, counted from 1.
//
// Each pull takes the place in the window of the pull that was limit pulls before it. So the last
// one takes a free place, or that of a spent token, after as many full turns of the window as the
// pulls before it need.
func last(from time.Time, limit int, held time.Duration, spent, n int, expires func(i int) (time.Time, error)) (time.Time, error) {
	turns, place := (n-1)/limit, (n-1)%limit+1
	if taken := place - (limit - spent); taken > 0 {
		at, err := expires(taken)
		if err != nil {
			return time.Time{}, err
		}
		if at.After(from) {
			from = at
		}
	}
	return from.Add(time.Duration(turns) * held), nil
}
