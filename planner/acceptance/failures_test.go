package acceptance

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
)

func TestFailuresAndRepublish(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.push("osism/tool", "1", "2")
	s.write("osism/one", "osism/two", "osism/tool", "osism/three:1")
	s.env["CHUNK_SIZE"] = "1"
	s.worker()

	said := s.planner("plan", "--wait").exits(1)
	require.Contains(t, said, "ended with failures")
	require.Contains(t, said, "Retry them with:  planner republish --all")
	s.requireMirrored("osism/tool")
	status := s.status()
	require.Equal(t, run.StateFailed, status.State)
	require.Equal(t, run.Tally{Total: 5, Copied: 2, Failed: 3}, status.Images)
	requireContract(t, s)
	records := s.failed()
	require.Len(t, records, 3)
	require.Equal(t, failedRepository{
		Repository: s.source.Host() + "/osism/one", Registry: s.source.Host(), Run: status.Run, Chunk: 1,
		Images: []failedImage{{
			Source:      s.source.Host() + "/osism/one",
			Destination: s.destination.Host() + "/" + prefix + "/osism/one",
			Attempts:    1,
			Reason:      records[0].Images[0].Reason,
		}},
	}, records[0])
	require.Contains(t, records[0].Images[0].Reason, "repository name not known to registry")
	require.Equal(t, s.source.Host()+"/osism/three:1", records[1].Images[0].Source)
	require.Contains(t, records[1].Images[0].Reason, "not found")

	// An image that is still missing fails again.
	s.becomes(s.republish(s.source.Host()+"/osism/one"), run.StateFailed)
	require.Len(t, s.failed(), 3)

	s.push("osism/one", "1", "2")
	s.push("osism/two", "1")
	s.push("osism/three", "1", "2")
	before := s.source.Pulls()
	for i, arguments := range [][]string{{s.source.Host() + "/osism/one"}, {"--chunk", "2"}, {"--all"}} {
		s.becomes(s.republish(arguments...), run.StateDone)
		require.Len(t, s.failed(), 2-i)
	}
	s.requireMirrored("osism/one", "osism/two")
	require.Equal(t, 4, s.source.Pulls()-before, "only what failed is tried")

	require.Equal(t, "Nothing to republish.\n", s.planner("republish", "--all").exits(0))
	require.Equal(t, "There are no failed images under the name default.\n", s.planner("failed").exits(0))
	require.Contains(t, s.planner("republish", "osism/unknown").exits(2), "no failures of docker.io/osism/unknown are recorded")
	s.planner("republish").exits(2)
	s.planner("republish", "--all", "--chunk", "1").exits(2)
}

// requireContract checks the names of keys on which scripts rely.
func requireContract(t *testing.T, s *site) {
	t.Helper()
	p := s.planner("failed", "-o", "json")
	p.exits(0)
	var records []map[string]any
	require.NoError(t, json.Unmarshal([]byte(p.stdout.String()), &records))
	for _, r := range records {
		require.Equal(t, []string{"chunk", "failed_at", "images", "registry", "repository", "run"}, slices.Sorted(maps.Keys(r)))
		for _, i := range r["images"].([]any) {
			require.Equal(t, []string{"attempts", "destination", "first_failed", "reason", "source"}, slices.Sorted(maps.Keys(i.(map[string]any))))
		}
	}
}

func TestTwoOperatorsRepublish(t *testing.T) {
	t.Parallel()
	s, server := newFleet(t)
	s.write("osism/tool:1")
	worker := s.worker()
	s.planner("plan", "--wait").exits(1)
	worker.kill()
	s.push("osism/tool", "1")
	before := s.source.Pulls()

	one, two := s.planner("republish", "--all"), s.planner("republish", "--all")
	said := []string{one.exits(0), two.exits(0)}
	winners := slices.DeleteFunc(slices.Clone(said), func(s string) bool { return !strings.Contains(s, "Republished 1 image") })
	require.Len(t, winners, 1, said)
	losers := slices.DeleteFunc(said, func(s string) bool { return strings.Contains(s, "Republished") })
	require.Len(t, losers, 1)
	require.Regexp(t, `republished or removed by another process|Nothing to republish|Nothing left to republish`, losers[0])
	b := brokertest.Open(t, server.Config())
	require.Len(t, stored(t, b), 1)
	runs, err := run.Open(t.Context(), b)
	require.NoError(t, err)
	all, err := runs.List(t.Context(), "default")
	require.NoError(t, err)
	require.Len(t, all, 2, "the plan, and the republish that found something")

	s.worker()
	s.becomes(runID(t, winners[0]), run.StateDone)
	s.requireMirrored("osism/tool")
	require.Empty(t, s.failed())
	require.Equal(t, 1, s.source.Pulls()-before)
}
