package display

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
)

var copies = []run.Copy{
	{Image: "quay.io/osism/a:1", Destination: "r.example/osism/a:1", Worker: "worker-0", Bytes: 3 << 30, Rate: 12 << 20, Since: now.Add(-5 * time.Minute)},
	{Image: "quay.io/osism/long:2\x1b[2J", Destination: "r.example/osism/long:2", Worker: "w", Since: now.Add(-90 * time.Second)},
}

func TestUnderWay(t *testing.T) {
	var p page
	underWay(&p, copies, now)
	require.Equal(t, `
  UNDER WAY                 TO                        MOVED        RATE    FOR  WORKER
  quay.io/osism/a:1         r.example/osism/a:1     3.0 GiB  12.0 MiB/s     5m  worker-0
  quay.io/osism/long:2 [2J  r.example/osism/long:2      0 B       0 B/s  1m30s  w
`, p.String())

	p.Reset()
	many := make([]run.Copy, shownCopies+7)
	underWay(&p, many, now)
	require.Equal(t, shownCopies+3, strings.Count(p.String(), "\n"))
	require.Contains(t, p.String(), "\n  and 7 more\n")

	p.Reset()
	underWay(&p, nil, now)
	require.Empty(t, p.String())
}

// TestNarrowTables: on a terminal, a table is no wider than it, and names lose their beginning.
func TestNarrowTables(t *testing.T) {
	long := "registry.example.com:5000/a-rather-long-organization/and-a-long-repository:2025.1"
	all := []run.Copy{{Image: long, Destination: "destination/" + long, Worker: "worker-0", Since: now}}
	show := func(s Screen) []string {
		p := page{screen: s}
		underWay(&p, all, now)
		return strings.Split(strings.TrimSpace(p.String()), "\n")
	}
	for width := 1; width < 120; width++ {
		row := show(Screen{Width: width})[1]
		require.Contains(t, row, "-repository:2025.1  ", "twenty characters are left on any terminal")
		if width >= 56 {
			require.LessOrEqual(t, utf8.RuneCountInString(row), width)
		}
	}
	require.Contains(t, show(Screen{})[1], "  "+long+"  destination/"+long+"  ")
}
