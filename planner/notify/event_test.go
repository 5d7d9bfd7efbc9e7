package notify

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/overview"
	"github.com/osism/skopeo-worker/shared/run"
)

// TestWhatIsMirrored: an event says that the whole list is mirrored only after a plan that had it.
func TestWhatIsMirrored(t *testing.T) {
	for name, test := range map[string]struct {
		run         run.Run
		title, text string
	}{
		"a plan":              {run.Run{Kind: run.KindPlan}, "Mirror nightly is complete", "Run r1 has ended. Every image of the list is mirrored."},
		"a plan of one chunk": {run.Run{Kind: run.KindPlan, Partial: true}, "Mirror nightly: no image of the list is among the failures", "Run r1 has ended. It did not have the whole list."},
		"a republish":         {run.Run{Kind: run.KindRepublish}, "Mirror nightly: no image of the list is among the failures", "Run r1 has ended. It did not have the whole list."},
	} {
		t.Run(name, func(t *testing.T) {
			test.run.ID = "r1"
			r := overview.Run{Run: test.run, Status: run.Status{Finished: new(time.Time)}}
			e := ended(mirror, r, nil, failed{}, nil)
			require.Equal(t, []string{string(kindDone), test.title, test.text}, []string{string(e.Kind), e.Title, e.Text})
		})
	}
}
