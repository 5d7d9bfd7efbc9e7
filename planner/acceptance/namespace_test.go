package acceptance

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestNamespace: all repositories of a namespace are mirrored, including new ones. While the
// namespace cannot be listed, the repositories of the last plan are mirrored.
func TestNamespace(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("team/a", "1")
	s.push("team/deep/b", "1", "2")
	s.push("team/deep/b-test", "1")
	s.push("other/c", "1")
	s.writeList("containers:\n  - image: " + s.source.Host() + "/team/*\n    repositories: {exclude: .*-test}\n")

	require.Contains(t, s.planner("plan", "--dry-run").exits(0), s.source.Host()+"/team/deep/b")
	require.Contains(t, s.planner("check").exits(0), "To copy: 3 images")
	require.Contains(t, s.planner("mirror").exits(0), "2 entries in 1 chunk")
	s.requireMirrored("team/a")
	s.requireMirrored("team/deep/b")
	repositories, err := s.destination.Repositories()
	require.NoError(t, err)
	require.Equal(t, []string{"mirror/team/a", "mirror/team/deep/b"}, repositories)

	s.push("team/new", "1")
	remove := s.source.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindRepositories), Status: 403})
	said := s.planner("mirror").exits(1)
	require.Contains(t, said, "it could not be listed")
	require.Contains(t, said, "FAILED: ")
	status := s.status()
	require.Equal(t, run.Tally{Total: 3, Unchanged: 3}, status.Images)
	require.Equal(t, run.StateFailed, status.State)
	require.Len(t, status.FailedNamespaces, 1)
	require.Contains(t, s.planner("check").exits(1), "1 could not be checked")
	require.Contains(t, s.planner("check", "--access").exits(1), "it could not be listed")
	remove()
	require.NotContains(t, s.planner("mirror").exits(0), "could not be listed")
	s.requireMirrored("team/new")

	// An upstream that empties its catalog removes nothing from a run.
	require.NoError(t, s.source.Untag("team/deep/b", "2"))
	remove = s.source.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindRepositories), Status: 200, Body: `{"repositories":[]}`})
	require.Contains(t, s.planner("mirror").exits(1), "it lists only 0 repositories")
	require.Equal(t, run.Tally{Total: 3, Unchanged: 3}, s.status().Images)
	require.Contains(t, s.planner("status").exits(0), "FAILED: ")
	remove()
	s.planner("mirror").exits(0)
}
