package overview

import (
	"context"
	"fmt"
	"time"

	"github.com/osism/skopeo-worker/shared/estimate"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
)

// Verdict is the state of a mirror in one word.
type Verdict string

// The verdicts.
const (
	Empty   Verdict = "empty"   // nothing has run in the last 30 days
	Running Verdict = "running" // a run is not over
	Fresh   Verdict = "fresh"   // the last run was complete, and no failures are kept
	Stale   Verdict = "stale"   // the last complete run ended longer than MAX_AGE ago
	Failing Verdict = "failing" // failures are kept
	Lost    Verdict = "lost"    // the last plan has lost chunks
	Ended   Verdict = "ended"   // the last plan was cancelled or superseded
)

// lookBack is how many runs are looked at for the last complete one.
const lookBack = 50

// Mirror is the state of the mirror of a name.
type Mirror struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	// Stale reports that the last complete run ended longer than MAX_AGE ago or, if none is
	// kept, that the first run began longer than MAX_AGE ago, whatever the verdict is.
	Stale bool `json:"stale"`
	// Complete is when the last run ended that mirrored or tried every image of the list;
	// nil if none is kept.
	Complete *time.Time `json:"complete"`
	// Current are the runs that are not over, the newest first.
	Current  []run.Status `json:"current"`
	Last     *run.Status  `json:"last"` // newest plan that is over
	Failures run.Failures `json:"failures"`
}

// mirror reads the state of the mirror of a name.
func (r *Reader) mirror(ctx context.Context, name string, kept failure.Count) (Mirror, error) {
	m := Mirror{Name: name, Current: []run.Status{}, Failures: run.Failures{Images: kept.Listed, LeftList: kept.LeftList}}
	for i, e := range r.byName[name] {
		if i == lookBack || m.Complete != nil {
			break
		}
		status, err := r.status(ctx, e)
		if err != nil {
			return Mirror{}, fmt.Errorf("reading run %s of %s: %w", e.ID, name, err)
		}
		switch {
		case !status.Over():
			if err := estimate.Describe(ctx, r.sources.Budget, &status); err != nil {
				return Mirror{}, fmt.Errorf("reading budgets: %w", err)
			}
			m.Current = append(m.Current, status)
		case e.Kind == run.KindPlan:
			if m.Last == nil {
				m.Last = &status
			}
			if status.State == run.StateDone || status.State == run.StateFailed {
				m.Complete = status.Finished
			}
		}
	}
	since := m.Complete
	if runs := r.byName[name]; since == nil && len(runs) > 0 {
		since = &runs[len(runs)-1].Started
	}
	m.Stale = r.maxAge > 0 && since != nil && r.now().Sub(*since) > r.maxAge
	m.judge()
	return m, nil
}

// judge sets the verdict. A run that is not over comes before those that have ended.
func (m *Mirror) judge() {
	switch {
	case len(m.Current) > 0:
		m.Verdict = Running
	case m.Last != nil && m.Last.State == run.StateLost:
		m.Verdict = Lost
	case m.Failures.Images > 0:
		m.Verdict = Failing
	case m.Last == nil:
		m.Verdict = Empty
	case m.Stale:
		m.Verdict = Stale
	case m.Last.State == run.StateCancelled, m.Last.State == run.StateSuperseded:
		m.Verdict = Ended
	default:
		m.Verdict = Fresh
	}
}
