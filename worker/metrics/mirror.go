package metrics

import (
	"context"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
)

// mirror is the state of a mirror name.
type mirror struct {
	Failed   int        `json:"failed"`    // failed images of the list
	LeftList int        `json:"left_list"` // failed images that have left the list
	Newest   run.Status `json:"newest"`
	// Revision is that of the newest run's entry if Newest is final.
	Revision uint64 `json:"revision,omitempty"`
	// LastSuccess is kept for longer than the run.
	LastSuccess   time.Time `json:"last_success,omitzero"`
	SuccessfulRun string    `json:"successful_run,omitempty"`
}

// mirrors returns the mirror names that have runs or failures.
func (f *Fleet) mirrors(ctx context.Context, known map[string]mirror, failed failure.Counts) (map[string]mirror, error) {
	runs, err := f.runs.List(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string]mirror{}
	unsuccessful := map[uint64]bool{}
	for name, entries := range runs {
		// A republish is not a run of the list.
		plans := slices.DeleteFunc(entries, func(e run.Entry) bool { return e.Kind != run.KindPlan })
		if all[name], err = f.mirror(ctx, plans, known[name], unsuccessful); err != nil {
			return nil, err
		}
	}
	f.unsuccessful = unsuccessful
	for name, images := range failed.Images {
		if m, ok := all[name]; ok || images != (failure.Count{}) {
			m.Failed, m.LeftList = images.Listed, images.LeftList
			all[name] = m
		}
	}
	return all, nil
}

// mirror reads the runs of a name from the newest on, until it finds the last success. The
// end of a run is the last one that its chunks have recorded, because no process may have watched it.
// Runs without success are noted, and not read again.
func (f *Fleet) mirror(ctx context.Context, plans []run.Entry, known mirror, unsuccessful map[uint64]bool) (mirror, error) {
	m := mirror{LastSuccess: known.LastSuccess, SuccessfulRun: known.SuccessfulRun}
	for i, e := range plans {
		st, final := known.Newest, e.Revision == known.Revision
		switch {
		case i > 0 && e.ID <= known.SuccessfulRun:
			return m, nil
		case i > 0 && f.unsuccessful[e.Revision]:
			unsuccessful[e.Revision] = true
			continue
		case !final:
			var err error
			if st, final, err = f.runs.Status(ctx, e); err != nil {
				return m, err
			}
		}
		if i == 0 {
			m.Newest = st
			if final {
				m.Revision = e.Revision
			}
		}
		if final && st.State == run.StateDone {
			m.SuccessfulRun = e.ID
			if st.Finished != nil && st.Finished.After(m.LastSuccess) {
				m.LastSuccess = *st.Finished
			}
			return m, nil
		}
		unsuccessful[e.Revision] = final
	}
	return m, nil
}
