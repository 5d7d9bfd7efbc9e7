package display

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/check"
)

func TestCheck(t *testing.T) {
	gone := check.Failed{Image: "quay.io/osism/gone", Line: 7, Reason: "list tags of quay.io/osism/gone: not found\x1b[31m (404)"}
	r := check.Report{
		Repositories: []check.Row{
			{Repository: reference.MustRepository("quay.io/osism/tool"), Destination: reference.MustRepository("a:1/tool"), Counts: check.Counts{
				Copy: 3, Tag: 1, Unchanged: 200, Skipped: 2, Pulls: 9, PullsAtLeast: true, Bytes: new(int64(5 << 20)), BytesAtLeast: true,
			}},
			{Repository: reference.MustRepository("quay.io/osism/tool"), Destination: reference.MustRepository("a:1/other"), Counts: check.Counts{Unchanged: 7, Bytes: new(int64(0))}},
			{Repository: reference.MustRepository("quay.io/osism/gone"), Destination: reference.MustRepository("a:1/gone"), Counts: check.Counts{PullsAtLeast: true, BytesAtLeast: true}, Failed: []check.Failed{gone}},
		},
		Registries: []check.Registry{
			{Registry: "docker.io", Limit: 100, Window: "6h", Origin: "header", Free: new(97), Pulls: 1412, PullsAtLeast: true, Seconds: new(302400)},
			{Registry: "ghcr.io", Pulls: 7},
			{Registry: "quay.io", Limit: 45, Window: "1s", Origin: "documentation", Pulls: 9, Seconds: new(0)},
		},
		Totals: check.Totals{Repositories: 3, Failed: 1, Seconds: new(302400), Counts: check.Counts{
			Copy: 3, Tag: 1, Unchanged: 207, Skipped: 2, Pulls: 9, PullsAtLeast: true, Bytes: new(int64(5 << 20)), BytesAtLeast: true,
		}},
	}
	var out strings.Builder
	Check(&out, r, Screen{})
	require.Equal(t, `REPOSITORY                       COPY  TAG  UNCHANGED  SKIPPED  FAILED  PULLS     BYTES
quay.io/osism/tool to a:1/tool      3    1        200        2       0     9+  5.0 MiB+
quay.io/osism/tool to a:1/other     0    0          7        0       0      0       0 B
quay.io/osism/gone                  0    0          0        0       1     0+   unknown
total                               3    1        207        2       1     9+  5.0 MiB+

REGISTRY   BUDGET      LIMIT FROM     FREE  PULLS   TAKES
docker.io  100 per 6h  header           97  1412+  3d12h+
ghcr.io    none known                    -      7       -
quay.io    45 per 1s   documentation     -      9      0s

+ at least: the contents of some indexes are known only after a pull

1 could not be checked:
  quay.io/osism/gone (line 7):
      list tags of quay.io/osism/gone: not found [31m (404)

To copy: 3 images. To tag: 1 image. In 3 repositories.
Budgets and schedule allow it to finish in 3d12h+.
`, out.String())

	unselected := r.Repositories[1]
	unselected.Warnings = []string{"FILTER, or the tags of the entry, match none of 12 tags"}
	out.Reset()
	Check(&out, check.Report{Repositories: []check.Row{unselected}, Totals: check.Totals{Repositories: 1}}, Screen{})
	require.Contains(t, out.String(), "\n\nwarning: quay.io/osism/tool: FILTER, or the tags of the entry, match none of 12\ntags\n\nNothing to do in 1 repository.\n")

	out.Reset()
	Check(&out, check.Report{Repositories: r.Repositories[1:2], Totals: check.Totals{Repositories: 1, Counts: r.Repositories[1].Counts}}, Screen{})
	require.Equal(t, `REPOSITORY          COPY  UNCHANGED  PULLS  BYTES
quay.io/osism/tool     0          7      0    0 B
total                  0          7      0    0 B

Nothing to do in 1 repository.
`, out.String())

	out.Reset()
	Check(&out, check.Report{Repositories: []check.Row{{Repository: reference.MustRepository("a:1/b"), Counts: check.Counts{Referrers: 2, Pulls: 2, BytesAtLeast: true}}},
		Totals: check.Totals{Repositories: 1, Counts: check.Counts{Referrers: 2, Pulls: 2, BytesAtLeast: true}}}, Screen{})
	require.Equal(t, `REPOSITORY  COPY  UNCHANGED  REFERRERS  PULLS    BYTES
a:1/b          0          0          2      2  unknown
total          0          0          2      2  unknown

To copy: 0 images, 2 referrers. To tag: 0 images. In 1 repository.
`, out.String())

	out.Reset()
	Check(&out, check.Report{}, Screen{})
	require.Equal(t, "There is nothing to check.\n", out.String())
}
