package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/osism/skopeo-worker/shared/run"
)

// names returns the mirror names of which the broker has runs or failures, sorted.
func (se *session) names(ctx context.Context) ([]string, error) {
	byName, err := se.runs.Ledger().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the mirror names: %w", err)
	}
	kept, err := se.counter.Count(ctx)
	if err != nil {
		return nil, fmt.Errorf("count the failures: %w", err)
	}
	all := map[string]bool{}
	for name := range byName {
		all[name] = true
	}
	for name := range kept.Images {
		all[name] = true
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// find returns a run by its id; the newest if the id is empty. If the mirror name has none,
// the error lists the names that have.
func (se *session) find(ctx context.Context, id string) (run.Run, error) {
	r, err := se.runs.Get(ctx, se.name, id)
	if id != "" || !errors.Is(err, run.ErrNotFound) {
		return r, err
	}
	names, failed := se.names(ctx)
	if failed == nil && len(names) > 0 {
		err = fmt.Errorf("%w; MIRROR_NAME can be %s", err, strings.Join(names, ", "))
	}
	return r, err
}
