package acceptance

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// checked is the contract of planner check -o json.
type checked struct {
	Repositories []struct {
		Repository, Destination       string
		Copy, Tag, Unchanged, Skipped int
		Pulls                         int
		PullsAtLeast                  bool `json:"pulls_at_least"`
		Bytes                         *int64
		Failed                        []struct{ Image, Reason string }
	}
	Totals struct {
		Repositories, Copy, Tag, Unchanged, Skipped, Failed, Pulls int
		PullsAtLeast                                               bool `json:"pulls_at_least"`
		Bytes                                                      *int64
	}
}

// TestCheck: it foretells what a run then does, without a broker and without a pull.
func TestCheck(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1", "2")
	s.write("osism/tool", "osism/gone")
	s.env["SKOPEO_PATH"] = "/no/such/skopeo"
	rows := func(p *process) (rows []string) {
		for line := range strings.Lines(p.stdout.String()) {
			rows = append(rows, strings.Join(strings.Fields(line), " "))
		}
		return rows
	}

	p := s.planner("check", "--exit-code")
	require.Contains(t, p.exits(1), s.source.Host()+"/osism/gone: not found")
	table := rows(p)
	require.Equal(t, []string{
		"REPOSITORY COPY TAG UNCHANGED SKIPPED FAILED PULLS BYTES",
		s.source.Host() + "/osism/tool 2 0 0 0 0 2 unknown",
		s.source.Host() + "/osism/gone 0 0 0 0 1 0+ unknown",
		"total 2 0 0 0 1 2+ unknown",
	}, table[:4])

	s.write("osism/tool")
	s.planner("check").exits(0)
	require.NotContains(t, s.planner("check", "--exit-code").exits(4), "planner:")
	require.Zero(t, s.source.Pulls())
	repositories, err := s.destination.Repositories()
	require.NoError(t, err)
	require.Empty(t, repositories)

	delete(s.env, "SKOPEO_PATH")
	s.planner("mirror").exits(0)
	s.source.ResetRequests()
	require.Contains(t, s.planner("check", "--exit-code").exits(0), "Nothing to do in 1 repository.")

	_, err = s.source.PushIndex("osism/tool", "2", registrytest.MultiPlatform("2", "linux/amd64", "linux/arm64"))
	require.NoError(t, err)
	require.NoError(t, s.source.Tag("osism/tool", "latest", s.push("osism/tool", "1")[0]))
	p = s.planner("check", "-o", "json", "--exit-code")
	p.exits(4)
	var found checked
	decoder := json.NewDecoder(strings.NewReader(p.stdout.String()))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&found))
	require.Len(t, found.Repositories, 1)
	row := found.Repositories[0]
	require.Equal(t, s.source.Host()+"/osism/tool", row.Repository)
	require.Equal(t, s.env["MIRROR_DEST_URL"]+"/osism/tool", row.Destination)
	require.Equal(t, []int{1, 1, 1, 0, 1}, []int{row.Copy, row.Tag, row.Unchanged, row.Skipped, row.Pulls})
	require.True(t, row.PullsAtLeast)
	require.Nil(t, row.Bytes)
	require.NotNil(t, row.Failed)
	require.Equal(t, []int{1, 1, 1, 1, 0, 0, 1}, []int{
		found.Totals.Repositories, found.Totals.Copy, found.Totals.Tag, found.Totals.Unchanged, found.Totals.Skipped, found.Totals.Failed, found.Totals.Pulls,
	})
	require.Zero(t, s.source.Pulls())
}

// TestCheckCannot: what nothing can be said of has the exit codes of a plan.
func TestCheckCannot(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.Contains(t, s.planner("check").exits(3), s.list)
	s.writeList("containers: [7]\n")
	require.Contains(t, s.planner("check").exits(2), s.list+":1: ")
	require.Contains(t, s.planner("check", "now").exits(2), "unexpected \"now\"")

	s.push("osism/tool", "1")
	s.write("osism/tool")
	open := s.gate(registrytest.In("osism/tool"))
	defer open()
	p := s.planner("check")
	s.waitFor(registrytest.In("osism/tool"))
	p.signal(syscall.SIGINT)
	require.Contains(t, p.exits(4), "planner: unfinished: interrupted\n")
}
