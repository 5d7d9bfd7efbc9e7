package plan

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

// TestSettle: a run that was published in part counts as published, or is undone. A run that
// another process may still be publishing is left alone.
func TestSettle(t *testing.T) {
	for what, c := range map[string]struct {
		kind           string
		chunks, stored int // of the run as it was put, and in the stream
		ended          string
		published      bool
		interrupted    bool
		gone           bool
	}{
		"a plan without its chunks":       {kind: run.KindPlan, chunks: 3, ended: run.StateCancelled, interrupted: true},
		"a plan with some of its chunks":  {kind: run.KindPlan, chunks: 3, stored: 2, ended: run.StateCancelled, interrupted: true},
		"a plan that was only not marked": {kind: run.KindPlan, chunks: 3, stored: 3, published: true},
		"a republish of nothing":          {kind: run.KindRepublish, gone: true, interrupted: true},
		"a republish of some":             {kind: run.KindRepublish, stored: 2, published: true, interrupted: true},
	} {
		t.Run(what, func(t *testing.T) {
			d := newDesk(t)
			r := d.run(c.kind, -3600) // the clock of its planner is behind
			r.Chunks, r.Published = c.chunks, false
			require.NoError(t, d.Runs.Put(t.Context(), r))
			msgs, err := schedules(name, r.ID, sliced(0, c.stored), time.Now())
			require.NoError(t, err)
			if len(msgs) > 0 {
				_, err = d.Broker.PublishAll(t.Context(), msgs)
				require.NoError(t, err)
			}
			settled, err := d.ender().Settle(t.Context(), name, d.start)
			require.NoError(t, err)
			require.Empty(t, settled, "it may be published just now")
			settled, err = d.ender().Settle(t.Context(), name, time.Now().Add(time.Second))
			require.NoError(t, err)
			require.Len(t, settled, 1)
			require.Equal(t, c.interrupted, settled[0].Interrupted)
			all, err := d.Runs.List(t.Context(), name)
			require.NoError(t, err)
			if c.gone {
				require.Empty(t, all)
				return
			}
			require.Len(t, all, 1)
			require.Equal(t, []any{c.ended, c.published, c.interrupted}, []any{all[0].Ended, all[0].Published, all[0].Interrupted})
			if c.ended != "" {
				require.Empty(t, d.subjects(subject.Plan, r))
			} else {
				require.Equal(t, c.stored, all[0].Chunks)
				require.Len(t, d.subjects(subject.Plan, r), c.stored)
			}
			settled, err = d.ender().Settle(t.Context(), name, time.Now().Add(time.Hour))
			require.NoError(t, err)
			require.Empty(t, settled, "it is settled")
		})
	}
}
