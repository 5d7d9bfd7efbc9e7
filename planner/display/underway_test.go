package display

import (
	"strings"
	"testing"
	"time"

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
