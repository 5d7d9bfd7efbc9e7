package budget

import (
	"context"
	"maps"
	"slices"

	"github.com/osism/skopeo-worker/shared/run"
)

// standing is how a registry stands, for the identity of which the least is left.
type standing struct {
	run.Registry
	identity string
}

// Report tells how every registry stands of which anything is known, sorted by name.
// Where one counts several identities, the one with the least left is told.
func (s *Store) Report(ctx context.Context) ([]run.Registry, error) {
	all, err := s.standings(ctx)
	if err != nil {
		return nil, err
	}
	var rows []run.Registry
	for _, name := range slices.Sorted(maps.Keys(all)) {
		rows = append(rows, all[name].Registry)
	}
	return rows, nil
}

// standings are those of Report, by name.
func (s *Store) standings(ctx context.Context) (map[string]standing, error) {
	if err := s.list(ctx, s.limits); err != nil {
		return nil, err
	}
	if err := s.list(ctx, s.closures); err != nil {
		return nil, err
	}
	all := s.known()
	infos, err := s.streams(ctx)
	if err != nil {
		return nil, err
	}
	for _, info := range infos {
		registry, identity := info.Config.Metadata[metaRegistry], info.Config.Metadata[metaIdentity]
		limit, origin := s.told(registry, identity)
		row := row(registry, limit)
		row.Spent = int(info.State.Msgs)
		*row.Free = max(0, row.Limit-row.Spent)
		if known, ok := all[registry]; origin == None || ok && known.Spent > 0 && *known.Free < *row.Free {
			continue
		}
		if err := s.nextSlot(ctx, &row, identity); err != nil {
			return nil, err
		}
		all[registry] = standing{row, identity}
	}
	for registry, known := range all {
		if c, ok := s.lastClosure(registry); ok {
			c.describe(&known.Registry, s.Now())
		}
		all[registry] = known
	}
	return all, nil
}

// Describe adds to the status of a run what the registries allow, and when it can be
// done at that.
func (s *Store) Describe(ctx context.Context, status *run.Status) error {
	all, err := s.standings(ctx)
	if err != nil {
		return err
	}
	for _, left := range status.Registries {
		known, err := s.estimate(ctx, all[left.Registry], left)
		if err != nil {
			return err
		}
		all[left.Registry] = known
		if known.EstimatedDone != nil {
			status.NotBefore(*known.EstimatedDone)
		}
		status.EstimatedAtLeast = status.EstimatedAtLeast || left.ToPullAtLeast
	}
	status.Registries = status.Registries[:0]
	for _, name := range slices.Sorted(maps.Keys(all)) {
		status.Registries = append(status.Registries, all[name].Registry)
	}
	if status.EstimatedDone != nil && !status.EstimatedDone.After(s.Now()) {
		status.EstimatedDone = nil
	}
	return nil
}

// estimate adds what is left of a run to how its registry stands.
func (s *Store) estimate(ctx context.Context, known standing, left run.Registry) (standing, error) {
	o, err := s.Outlook(ctx, left.Registry, known.identity, Limit{})
	if err != nil {
		return known, err
	}
	if known.Limit == 0 && o.Origin != None {
		known.Limit, known.Window = o.Limit.Requests, short(o.Limit.Window)
	}
	known.Registry.Registry = left.Registry
	known.ToPull, known.ToPullAtLeast = left.ToPull, left.ToPullAtLeast
	last, err := o.Last(ctx, max(1, left.ToPull))
	if err == nil && last.After(s.Now()) {
		known.EstimatedDone = &last
	}
	return known, err
}

// nextSlot adds when the next token is free, where none is now.
func (s *Store) nextSlot(ctx context.Context, row *run.Registry, identity string) error {
	if row.Spent < row.Limit {
		return nil
	}
	limit, _ := s.told(row.Registry, identity)
	slot, err := s.window(row.Registry, identity).slot(ctx, s, limit, 1)
	row.NextSlot = &slot
	return err
}

// known are the registries of the buckets, with what they allow.
func (s *Store) known() map[string]standing {
	s.mu.RLock()
	defer s.mu.RUnlock()
	now := s.Now()
	rows := map[string]standing{}
	for _, c := range s.view.closed {
		if c.Count > 0 && now.Before(c.until()) || c.away(now) {
			rows[c.Registry] = standing{Registry: run.Registry{Registry: c.Registry}}
		}
	}
	for _, f := range s.view.found {
		// A rate that was never refused is no limit: it is about to be none.
		if rate, ok := f.current(now); ok && f.Refused && f.Kind == Pull {
			row := row(f.Registry, asLimit(rate))
			row.Free = nil // nobody counts the pulls of a rate
			rows[f.Registry] = standing{Registry: row}
		}
	}
	for _, t := range s.view.told {
		if limit, origin := s.view.limit(t.Registry, t.Identity, now); origin != None {
			rows[t.Registry] = standing{row(t.Registry, limit), t.Identity}
		}
	}
	return rows
}

func row(registry string, limit Limit) run.Registry {
	free := limit.Requests
	return run.Registry{Registry: registry, Limit: limit.Requests, Window: short(limit.Window), Free: &free}
}
