package overview

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/estimate"
	"github.com/osism/skopeo-worker/shared/run"
)

// Run is a run with its status.
type Run struct {
	run.Run
	Status run.Status
}

// Took returns how long the run has taken so far, or 0 if that is unknown.
func (r Run) Took(now time.Time) time.Duration {
	switch {
	case r.Status.Finished != nil:
		return r.Status.Finished.Sub(r.Status.Started)
	case r.Status.Over():
		return 0
	}
	return now.Sub(r.Status.Started)
}

// Runs returns at most count runs of a mirror name, without the first skip ones, the newest first. total
// is the number of all its runs.
func (r *Reader) Runs(ctx context.Context, name string, skip, count int) (runs []Run, total int, err error) {
	err = r.alone(ctx, func(ctx context.Context) error {
		if _, err := r.refresh(ctx); err != nil {
			return err
		}
		entries := r.byName[name]
		total = len(entries)
		skip = min(skip, total)
		for _, e := range entries[skip:min(skip+count, total)] {
			status, err := r.status(ctx, e)
			if err != nil {
				return fmt.Errorf("reading run %s: %w", e.ID, err)
			}
			runs = append(runs, Run{e.Run, status})
		}
		return nil
	})
	return runs, total, err
}

// Chunk is the progress that a worker has recorded for a message of a run.
type Chunk struct {
	Registry string `json:"registry"`
	Token    string `json:"token"`
	run.Progress
}

// Run returns a run of a mirror name, and the recorded progress of its chunks, sorted by number. It
// returns run.ErrNotFound if there is no such run.
func (r *Reader) Run(ctx context.Context, name, id string) (found Run, chunks []Chunk, err error) {
	err = r.alone(ctx, func(ctx context.Context) error {
		if _, err := r.refresh(ctx); err != nil {
			return err
		}
		i := slices.IndexFunc(r.byName[name], func(e run.Entry) bool { return e.ID == id })
		if i < 0 {
			return fmt.Errorf("%w: %s under the name %s", run.ErrNotFound, id, name)
		}
		e := r.byName[name][i]
		status, err := r.status(ctx, e)
		if err == nil && !status.Over() {
			err = estimate.Describe(ctx, r.sources.Budget, &status)
		}
		if err != nil {
			return fmt.Errorf("reading run %s: %w", id, err)
		}
		found = Run{e.Run, status}
		return nil
	})
	if err != nil {
		return Run{}, nil, err
	}
	all, err := r.sources.Runs.AllProgress(ctx, name, id)
	if err != nil {
		return Run{}, nil, fmt.Errorf("reading the chunks of run %s: %w", id, err)
	}
	for a, p := range all {
		registry, known := a.RegistryName()
		if !known {
			registry = a.Registry
		}
		chunks = append(chunks, Chunk{registry, a.Token, p})
	}
	slices.SortFunc(chunks, func(a, b Chunk) int {
		return cmp.Or(cmp.Compare(a.Token, b.Token), cmp.Compare(a.Registry, b.Registry))
	})
	return found, chunks, nil
}

// Usual returns the median duration of the complete plans of the whole list among the runs, or 0 if there are fewer than
// three.
func Usual(runs []Run) time.Duration {
	var took []time.Duration
	for _, r := range runs {
		complete := r.Status.State == run.StateDone || r.Status.State == run.StateFailed
		if complete && r.IsWhole() && r.Status.Finished != nil {
			took = append(took, r.Took(*r.Status.Finished))
		}
	}
	if len(took) < 3 {
		return 0
	}
	slices.Sort(took)
	return took[len(took)/2]
}
