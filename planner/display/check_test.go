package display

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/check"
)

func TestCheck(t *testing.T) {
	nothing := int64(0)
	gone := check.Failed{Image: "quay.io/osism/gone", Reason: "list tags of quay.io/osism/gone: not found\x1b[31m (404)"}
	r := check.Report{
		Repositories: []check.Row{
			{Repository: "quay.io/osism/tool", Destination: "a/tool", Counts: check.Counts{Copy: 3, Tag: 1, Unchanged: 200, Skipped: 2, Pulls: 9, PullsAtLeast: true}},
			{Repository: "quay.io/osism/tool", Destination: "a/other", Counts: check.Counts{Unchanged: 7, Bytes: &nothing}},
			{Repository: "quay.io/osism/gone", Destination: "a/gone", Counts: check.Counts{PullsAtLeast: true}, Failed: []check.Failed{gone}},
		},
		Totals: check.Totals{Repositories: 3, Counts: check.Counts{Copy: 3, Tag: 1, Unchanged: 207, Skipped: 2, Pulls: 9, PullsAtLeast: true}, Failed: 1},
	}
	var out strings.Builder
	Check(&out, r)
	require.Equal(t, `REPOSITORY                     COPY  TAG  UNCHANGED  SKIPPED  FAILED  PULLS  BYTES
quay.io/osism/tool to a/tool   3     1    200        2        0       9+     unknown
quay.io/osism/tool to a/other  0     0    7          0        0       0      0 B
quay.io/osism/gone             0     0    0          0        1       0+     unknown
total                          3     1    207        2        1       9+     unknown
+ at least: without a pull, not all that an index lists is known

1 could not be checked:
  quay.io/osism/gone:
      list tags of quay.io/osism/gone: not found [31m (404)

To copy: 3 images. To tag: 1 image. In 3 repositories.
`, out.String())

	out.Reset()
	Check(&out, check.Report{Repositories: r.Repositories[1:2], Totals: check.Totals{Repositories: 1, Counts: r.Repositories[1].Counts}})
	require.Equal(t, `REPOSITORY          COPY  TAG  UNCHANGED  SKIPPED  FAILED  PULLS  BYTES
quay.io/osism/tool  0     0    7          0        0       0      0 B
total               0     0    7          0        0       0      0 B

Nothing to do in 1 repository.
`, out.String())

	out.Reset()
	Check(&out, check.Report{})
	require.Equal(t, "There is nothing to check.\n", out.String())
}
