package metrics

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/prune"
)

// mirror is the state of a mirror name.
type mirror struct {
	Failed   int        `json:"failed"`    // failed images of the list
	LeftList int        `json:"left_list"` // failed images that have left the list
	Newest   run.Status `json:"newest"`
	// Revision is the revision of the newest run's entry, if Newest is final.
	Revision uint64 `json:"revision,omitempty"`
	// LastSuccess outlasts the run.
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

// mirror reads the runs of a mirror name, the newest first, until it finds the last success. It
// notes runs that ended without success, and does not read them again.
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
		if final && st.State == run.StateDone && !e.Partial {
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

var (
	pruneCandidates = describe("prune_candidate_tags", "Tags that the prune plan on the page would delete, or has left to delete; 0 if it is executed.", "mirror")
	prunedTags      = describe("pruned_tags", "Tags of the prune plan that was executed last, by outcome.", "mirror", "outcome")
	lastPrune       = describe("last_prune_timestamp_seconds", "When the last execution of a prune plan ended.", "mirror")
)

// pruned holds the prune plan on the page of a mirror name, and its last execution.
type pruned struct {
	Candidates int         `json:"candidates"`
	Last       *prune.Last `json:"last,omitempty"`
}

// pruned returns the mirror names that have a prune plan on the page, or have executed one.
func (f *Fleet) pruned(ctx context.Context) (map[string]pruned, error) {
	states, err := f.prunes.States(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string]pruned{}
	for _, st := range states {
		if st.Review == nil && st.Last == nil {
			continue
		}
		p := pruned{Last: st.Last}
		if r := st.Review; r != nil && !r.Finished {
			p.Candidates = max(0, r.Tags-r.Outcome.Deleted-r.Outcome.Gone)
		}
		all[st.Mirror] = p
	}
	return all, nil
}

func collectPruned(out chan<- prometheus.Metric, name string, p pruned) {
	gauge(out, pruneCandidates, float64(p.Candidates), name)
	if p.Last == nil {
		return
	}
	moment(out, lastPrune, p.Last.At, name)
	o := p.Last.Outcome
	for outcome, n := range map[string]int{"deleted": o.Deleted, "gone": o.Gone, "skipped": o.Skipped, "failed": o.Failed} {
		gauge(out, prunedTags, float64(n), name, outcome)
	}
}
