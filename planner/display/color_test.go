package display

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
)

// plain removes the colors from a text.
var plain = strings.NewReplacer("\x1b[31m", "", "\x1b[32m", "", "\x1b[33m", "", "\x1b[0m", "")

// TestStatusColors: lines that need attention are colored as a whole. Without colors, the text is
// the same.
func TestStatusColors(t *testing.T) {
	until := now.Add(time.Minute)
	status := run.Status{
		Name: "n\x1b[2J", Run: "r", State: run.StateFailed, Chunks: run.Chunks{Total: 2, Done: 2}, Images: run.Tally{Total: 2, Failed: 1},
		Registries: []run.Registry{
			{Registry: "away.example.com", ClosedSince: &now, Reason: "unavailable"},
			{Registry: "closed.example.com", ClosedUntil: &until, Reason: "429"},
			{Registry: "open.example.com"},
		},
	}
	show := func(colors bool) string {
		var out strings.Builder
		Status(&out, status, now, Screen{Colors: colors})
		Runs(&out, []run.Status{{Run: "a", State: run.StateDone}, {Run: "b", State: run.StateLost}}, now, Screen{Colors: colors})
		Summary(&out, status, []failure.Record{{Images: []failure.Image{{Source: "quay.io/a:1", Reason: "denied"}}}}, now, Screen{Colors: colors})
		return out.String()
	}
	colored := show(true)
	for _, want := range []string{
		"\x1b[31mMirror ", "\x1b[31m  away.example.com ", "\x1b[33m  closed.example.com ", "\n  open.example.com ",
		"\na    done", "\x1b[31mb    lost", "\x1b[31mRun r ended with failures", "\x1b[31m1 image failed:\x1b[0m\n",
	} {
		require.Contains(t, colored, want)
	}
	require.NotContains(t, colored, "\x1b[2J")
	require.Equal(t, show(false), plain.Replace(colored))
}
