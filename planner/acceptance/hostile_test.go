package acceptance

import (
	"net/http"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestHostileSource: a source lists names that are not tags. Nothing is written outside of its
// repository, even if a proxy removes dot segments from paths. The run reports the names, and none
// of them controls a terminal.
func TestHostileSource(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	front := registrytest.NewFront(t, s.destination)
	s.env["MIRROR_DEST_URL"], s.env["INSECURE_REGISTRIES"] = front+"/"+prefix, s.env["INSECURE_REGISTRIES"]+","+front
	victim, err := s.destination.PushImage("victim/app", "latest", registrytest.Image{Version: "the victim's"})
	require.NoError(t, err)
	s.push("evil/repo", "1", "2")
	require.NoError(t, s.source.Lie("evil/repo", "1", "../../../victim/app/manifests/latest", "../../../../victim/app/manifests/latest", "\x1b[31mred\n"))
	s.write("evil/repo")

	said := s.planner("mirror").exits(1)
	require.Contains(t, said, "ended with failures")
	require.Equal(t, run.Tally{Total: 3, Copied: 2, Failed: 1}, s.status().Images)
	records := s.failed()
	require.Len(t, records, 1)
	require.Equal(t, s.source.Host()+"/evil/repo", records[0].Repository)
	said += s.planner("failed").exits(0) + s.planner("check").exits(1)
	for _, quoted := range []string{`invalid tag: "../../../victim/app/manifests/latest"`, `"\x1b[31mred\n"`} {
		require.Contains(t, strings.Join(strings.Fields(said), " "), quoted)
	}
	require.NotContains(t, strings.Map(func(c rune) rune {
		if c != '\n' && unicode.IsControl(c) {
			return '!'
		}
		return c
	}, said), "![31m")

	now, err := s.destination.Digest("victim/app", "latest")
	require.NoError(t, err)
	require.Equal(t, victim, now)
	for _, r := range s.destination.Requests() {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			require.Equal(t, prefix+"/evil/repo", r.Repository, "%s %s", r.Method, r.Path)
		}
	}
	require.NoError(t, s.source.Lie("evil/repo", "1"))
	require.Contains(t, s.planner("republish", s.source.Host()+"/evil/repo").exits(0), "is done")
	require.Empty(t, s.failed())
}
