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

// names returns the mirror names with runs or failures at the broker, sorted.
func (se *session) names(ctx context.Context) ([]string, error) {
	byName, err := se.runs.Ledger().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the mirror names: %w", err)
	}
	kept, err := se.counter.Count(ctx)
	if err != nil {
		return nil, fmt.Errorf("counting failures: %w", err)
	}
	names := slices.AppendSeq(slices.Collect(maps.Keys(byName)), maps.Keys(kept.Images))
	slices.Sort(names)
	return slices.Compact(names), nil
}

// find returns the run with the id, or the newest run if the id is empty. If there is no run, the error
// lists the mirror names that have runs or failures.
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
