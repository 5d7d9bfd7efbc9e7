package acceptance

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/prune"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// prunes are the tags that planner prune plans to delete.
func (s *site) prunes(arguments ...string) (names []string) {
	s.t.Helper()
	s.destination.ResetRequests()
	p := s.planner(append([]string{"prune", "-o", "json"}, arguments...)...)
	p.exits(0)
	require.Zero(s.t, s.destination.Count(func(r registrytest.Request) bool { return r.Method != "GET" && r.Method != "HEAD" }))
	var plan prune.Plan
	require.NoError(s.t, json.NewDecoder(strings.NewReader(p.stdout.String())).Decode(&plan))
	for _, r := range plan.Repositories {
		for _, t := range r.Tags {
			names = append(names, r.Repository.Path()+":"+t.Tag.String())
		}
	}
	return names
}

// TestPruneNamespace: the repositories of a namespace are named by the list.
func TestPruneNamespace(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1", "2")
	s.write("osism/*")
	s.planner("mirror").exits(0)
	s.planner("mirror").exits(0)
	all := []string{"--grace", "0s", "--max", "100%", "--max-per-repository", "100%"}
	require.Empty(t, s.prunes(all...))
	require.NoError(t, s.source.Untag("osism/tool", "2"))
	s.planner("mirror").exits(0)
	require.Equal(t, []string{prefix + "/osism/tool:2"}, s.prunes(all...))
}

// TestPrunePlan: what the source or the list has dropped is planned after the time of grace,
// within the caps; what was not mirrored never is.
func TestPrunePlan(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.Contains(t, s.planner("prune").exits(2), "nothing has run here")
	s.push("osism/tool", "1", "2", "3")
	s.push("osism/other", "1", "2")
	s.write("osism/tool", "osism/other")
	s.planner("mirror").exits(0)
	_, err := s.destination.PushImage(prefix+"/osism/tool", "stray", registrytest.Image{Version: "stray"})
	require.NoError(t, err)
	all := []string{"--grace", "0s", "--max", "100%", "--max-per-repository", "100%"}
	require.Empty(t, s.prunes(all...))

	require.NoError(t, s.source.Untag("osism/tool", "2"))
	require.Empty(t, s.prunes(all...), "no run has seen it")
	s.planner("mirror").exits(0)
	require.Empty(t, s.prunes(), "within the time of grace")
	require.Equal(t, []string{prefix + "/osism/tool:2"}, s.prunes(all...))
	require.Contains(t, s.planner("prune", "--grace", "0s").exits(1), "1 of 5 mirrored tags, more than --max 10%")
	require.Empty(t, s.prunes(append(all, "--keep", "2$")...))

	// Half of the list, by mistake.
	s.write("osism/other")
	require.Equal(t, []string{prefix + "/osism/tool:2"}, s.prunes(all...), "the rest was dropped by no plan")
	s.planner("mirror").exits(0)
	require.Empty(t, s.prunes())
	require.Contains(t, s.planner("prune", "--grace", "0s").exits(1), "3 of 5 mirrored tags")
	require.Equal(t, []string{prefix + "/osism/tool:1", prefix + "/osism/tool:2", prefix + "/osism/tool:3"}, s.prunes(all...))
	s.write("osism/tool", "osism/other")
	require.Equal(t, []string{prefix + "/osism/tool:2"}, s.prunes(all...), "the list has it again")
	s.writeList("containers: []\n")
	s.planner(append([]string{"prune"}, all...)...).exits(2)
	s.write("osism/tool", "osism/other")
	s.source.Stop()
	require.Empty(t, s.prunes(all...), "the source does not answer")
}
