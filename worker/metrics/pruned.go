package metrics

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/osism/skopeo-worker/worker/prune"
)

var (
	pruneCandidates = describe("prune_candidate_tags", "Tags that the prune plan on the page would delete, or has left to delete; 0 if it is executed.", "mirror")
	prunedTags      = describe("pruned_tags", "Tags of the prune plan that was executed last, by outcome.", "mirror", "outcome")
	lastPrune       = describe("last_prune_timestamp_seconds", "When the last execution of a prune plan ended.", "mirror")
)

// pruned is how the pruning of a mirror name stands.
type pruned struct {
	Candidates int         `json:"candidates"`
	Last       *prune.Last `json:"last,omitempty"`
}

// pruned returns the mirror names with a prune plan on the page, or that was executed.
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
