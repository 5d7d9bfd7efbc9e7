package overview

import (
	"context"
	"fmt"
	"time"

	"github.com/osism/skopeo-worker/shared/estimate"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
)

// verdict is the state of a mirror in one word.
type verdict string

// The verdicts.
const (
	verdictEmpty   verdict = "empty"   // nothing has run in the last 30 days
	verdictRunning verdict = "running" // a run is not over
	verdictFresh   verdict = "fresh"   // the last plan was complete, and nothing of the list has failed
	verdictStale   verdict = "stale"   // the last complete run ended longer than MAX_AGE ago
	verdictFailing verdict = "failing" // failures are kept, or the last plan has namespaces that failed
	verdictLost    verdict = "lost"    // the last plan has lost chunks
	verdictEnded   verdict = "ended"   // the last plan was cancelled or superseded, or had one chunk of the list
)

// lookBack is how many runs are read in search of the last complete one.
const lookBack = 50

// Mirror is the state of a mirror.
type Mirror struct {
	Name    string  `json:"name"`
	Verdict verdict `json:"verdict"`
	// Stale reports that the last complete run ended longer than MAX_AGE ago. If no complete run is
	// kept, it reports that the first run began longer than MAX_AGE ago. It is independent of Verdict.
	Stale bool `json:"stale"`
	// Complete is when the last complete run ended, which has mirrored or tried every image of the
	// list; nil if none is kept.
	Complete *time.Time `json:"complete"`
	// Current are the runs that are not over, the newest first.
	Current  []run.Status `json:"current"`
	Last     *run.Status  `json:"last"` // the newest plan that is over; nil if there is none
	Failures run.Failures `json:"failures"`
}

// mirror reads the state of a mirror.
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
			if e.IsWhole() && (status.State == run.StateDone || status.State == run.StateFailed) {
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

// judge sets the verdict. A current run takes precedence over ended ones.
func (m *Mirror) judge() {
	switch {
	case len(m.Current) > 0:
		m.Verdict = verdictRunning
	case m.Last != nil && m.Last.State == run.StateLost:
		m.Verdict = verdictLost
	case m.Failures.Images > 0, m.Last != nil && len(m.Last.FailedNamespaces) > 0:
		m.Verdict = verdictFailing
	case m.Last == nil:
		m.Verdict = verdictEmpty
	case m.Stale:
		m.Verdict = verdictStale
	case m.Last.Partial, m.Last.State == run.StateCancelled, m.Last.State == run.StateSuperseded:
		m.Verdict = verdictEnded
	default:
		m.Verdict = verdictFresh
	}
}
