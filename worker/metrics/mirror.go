package metrics

import (
	"context"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/run"
)

// anyName stands for every mirror name where runs are listed.
const anyName = "*"

// mirror is how a mirror name stands.
type mirror struct {
	Failed      int        `json:"failed"` // images
	Newest      run.Status `json:"newest"`
	LastSuccess time.Time  `json:"last_success,omitzero"`
	// Settled is the id of a run before which, itself included, nothing will change.
	Settled string `json:"settled,omitempty"`
}

// mirrors looks at every mirror name that has run as long as runs are kept. Nobody may
// have looked when a run ended, so what is known of its end is what its chunks said.
func (f *Fleet) mirrors(ctx context.Context, known map[string]mirror) (map[string]mirror, error) {
	runs, err := f.runs.List(ctx, anyName)
	if err != nil {
		return nil, err
	}
	byName := map[string][]run.Run{} // the newest first
	for _, r := range runs {
		byName[r.Name] = append(byName[r.Name], r)
	}
	all := map[string]mirror{}
	for name, runs := range byName {
		m, err := f.mirror(ctx, runs, known[name])
		if err != nil {
			return nil, err
		}
		records, err := f.failures.List(ctx, name)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			m.Failed += len(r.Images)
		}
		all[name] = m
	}
	return all, nil
}

// mirror looks at the runs of a name from the newest on, until it knows the last one
// that went well. A republish is no run of the list.
func (f *Fleet) mirror(ctx context.Context, runs []run.Run, known mirror) (mirror, error) {
	m := mirror{LastSuccess: known.LastSuccess, Settled: known.Settled}
	plans := slices.DeleteFunc(runs, func(r run.Run) bool { return r.Kind != run.KindPlan })
	settled := ""
	for i, r := range plans {
		if i > 0 && r.ID <= known.Settled {
			break
		}
		status, err := f.status(ctx, r)
		if err != nil {
			return m, err
		}
		if i == 0 {
			m.Newest = status
		}
		switch {
		case !status.Over():
			settled = ""
		case settled == "":
			settled = r.ID
		}
		if status.State == run.StateDone {
			if status.Finished != nil && status.Finished.After(m.LastSuccess) {
				m.LastSuccess = *status.Finished
			}
			break
		}
	}
	m.Settled = max(m.Settled, settled)
	return m, nil
}

func (f *Fleet) status(ctx context.Context, r run.Run) (run.Status, error) {
	tracker, err := f.runs.Track(ctx, r.Name, r.ID)
	if err != nil {
		return run.Status{}, err
	}
	defer tracker.Stop()
	return tracker.Status(ctx)
}
