package budget

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/osism/skopeo-worker/shared/run"
)

// Report tells how every registry stands of which anything is known, sorted by name.
// Where one counts several identities, the one with the least left is told.
func (s *Store) Report(ctx context.Context) ([]run.Registry, error) {
	if err := s.list(ctx, s.limits); err != nil {
		return nil, err
	}
	if err := s.list(ctx, s.closures); err != nil {
		return nil, err
	}
	rows := s.known()
	infos, err := s.streams(ctx)
	if err != nil {
		return nil, err
	}
	for _, info := range infos {
		registry, identity := info.Config.Metadata[metaRegistry], info.Config.Metadata[metaIdentity]
		limit, origin := s.told(registry, identity)
		row := row(registry, limit)
		row.Spent = int(info.State.Msgs)
		if known, ok := rows[registry]; origin == None || ok && known.Spent > 0 && known.Limit-known.Spent < row.Limit-row.Spent {
			continue
		}
		if err := s.nextSlot(ctx, &row, identity); err != nil {
			return nil, err
		}
		rows[registry] = row
	}
	for registry, row := range rows {
		if c, closed := s.closure(registry); closed {
			until := c.until()
			row.ClosedUntil, row.Reason = &until, c.Reason
			if row.NextSlot == nil || row.NextSlot.Before(until) {
				row.NextSlot = &until
			}
		}
		rows[registry] = row
	}
	return slices.SortedFunc(maps.Values(rows), func(a, b run.Registry) int { return cmp.Compare(a.Registry, b.Registry) }), nil
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
func (s *Store) known() map[string]run.Registry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	now := s.Now()
	rows := map[string]run.Registry{}
	for _, c := range s.view.closed {
		if c.Count > 0 && now.Before(c.until()) {
			rows[c.Registry] = run.Registry{Registry: c.Registry}
		}
	}
	for _, f := range s.view.found {
		// A rate that was never refused is no limit: it is about to be none.
		if rate, ok := f.current(now); ok && f.Refused && f.Kind == Pull {
			rows[f.Registry] = row(f.Registry, asLimit(rate))
		}
	}
	for _, t := range s.view.told {
		if limit, origin := s.view.limit(t.Registry, t.Identity, now); origin != None {
			rows[t.Registry] = row(t.Registry, limit)
		}
	}
	return rows
}

func row(registry string, limit Limit) run.Registry {
	return run.Registry{Registry: registry, Limit: limit.Requests, Window: short(limit.Window)}
}
