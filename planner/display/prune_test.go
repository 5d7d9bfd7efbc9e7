package display

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/prune"
)

// TestPruning: the state of the plan on the page, and the result of the last execution.
func TestPruning(t *testing.T) {
	now := time.Now()
	says := func(r *prune.Review, last *prune.Last) string {
		var out bytes.Buffer
		Pruning(&out, r, last, now)
		return out.String()
	}
	require.Empty(t, says(nil, nil))
	for want, r := range map[string]prune.Review{
		"0 tags, nothing to delete.":                              {},
		"2 tags, to be confirmed on the page.":                    {Tags: 2},
		"2 tags, more than its caps permit.":                      {Tags: 2, Over: "too much"},
		"2 tags, being executed.":                                 {Tags: 2, Confirmed: now},
		"2 tags, stopped; it can be confirmed again on the page.": {Tags: 2, Confirmed: now, Ended: now, Why: "away"},
		"1 tag, executed.":                                        {Tags: 1, Confirmed: now, Ended: now, Finished: true},
	} {
		r.Made, r.By = now, "ada\x1b[2J"
		said := says(&r, nil)
		require.Contains(t, said, want)
		require.NotContains(t, said, "\x1b")
	}
	said := says(nil, &prune.Last{By: "ada", At: now, Why: "a run is not over", Outcome: prune.Outcome{Deleted: 1, Skipped: 2, Gone: 3, Failed: 4}})
	require.Contains(t, said, "by ada: 1 tag deleted, 2 skipped, 3 already gone, 4 failed.\nNot finished: a run is not over\n")
}

// TestPruneNothing: the summary does not deny that tags were dropped if the plan keeps them.
func TestPruneNothing(t *testing.T) {
	plan := prune.Plan{Grace: (30 * day).String()}
	says := func() string {
		var out bytes.Buffer
		Prune(&out, plan)
		return out.String()
	}
	require.Equal(t, "Nothing to delete: no tag has been dropped for 30d or longer.\n", says())
	plan.Left = []prune.Left{{Repository: reference.MustRepository("registry.example.com/a/b"), Tag: reference.MustTag("1"), Why: "it matches --keep"}}
	require.Equal(t, "stays: registry.example.com/a/b:1: it matches --keep\nNothing to delete.\n", says())
}
