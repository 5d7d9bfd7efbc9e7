package acceptance

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// over waits until nothing of a run is left at the broker.
func (s *site) over(id string) run.Status {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return s.status(id).Finished != nil }, patience, asking)
	return s.status(id)
}

// TestNewerPlanTakesThePlaceOfWhatIsDue: a worker that starts later mirrors only the new list.
func TestNewerPlanTakesThePlaceOfWhatIsDue(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.push("osism/old", "1", "2")
	s.push("osism/tool", "1", "2")
	s.env["CHUNK_SIZE"] = "1"
	s.write("osism/old", "osism/tool")
	waiting := s.planner("plan", "--wait")
	waiting.says("Published run")
	older := runID(t, waiting.all.String())
	require.Eventually(t, func() bool { return s.status(older).NextDue == nil }, patience, asking)

	s.write("osism/tool")
	newer := s.plan()
	require.Contains(t, waiting.exits(4), "run "+older+" was superseded")
	same := s.plan()
	partial := runID(t, s.with("CHUNK_NUMBER", "1").planner("plan").exits(0))
	require.Less(t, older, newer, "the ids of runs sort by time")

	s.worker()
	s.becomes(partial, run.StateDone)
	for id, chunks := range map[string]int{older: 2, newer: 1} {
		status := s.over(id)
		require.Equal(t, run.StateSuperseded, status.State)
		require.Equal(t, run.Chunks{Total: chunks, Dropped: chunks}, status.Chunks)
		require.Equal(t, run.Tally{Total: chunks, Dropped: chunks}, status.Images)
	}
	require.Equal(t, run.StateDone, s.status(same).State, "a plan of one chunk takes nobody's place")
	s.requireMirrored("osism/tool")
	require.Zero(t, s.source.Count(registrytest.In("osism/old")))
}

// TestCancelWhatIsDue cancels due chunks without a worker, and while a worker has one.
func TestCancelWhatIsDue(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.push("osism/one", "1")
	s.push("osism/two", "1")
	s.push("osism/three", "1")
	s.env["CHUNK_SIZE"], s.env["WORKER_CONCURRENCY"] = "1", "1"
	s.write("osism/one", "osism/two", "osism/three")
	idle := s.plan()
	require.Contains(t, s.planner("cancel").exits(0), "Cancelled run "+idle+": 3 chunks with 3 images dropped.\n")
	require.Equal(t, run.Chunks{Total: 3, Dropped: 3}, s.status().Chunks)

	open := s.gate(blobs)
	s.worker()
	require.Equal(t, run.StateCancelled, s.over(idle).State)
	require.Empty(t, s.source.Requests())
	require.Contains(t, s.planner("cancel", idle).exits(0), "Run "+idle+" has nothing left to cancel.\n")
	plan := s.planner("plan", "--wait")
	plan.says("Published run")
	s.waitFor(blobs)
	busy := runID(t, plan.all.String())
	require.Eventually(t, func() bool { return s.status(busy).Chunks.Running == 2 }, patience, asking, "it holds one more than it copies")
	said := s.planner("cancel").exits(0)
	require.Contains(t, said, "Cancelled run "+busy+": 1 chunk with 1 image dropped.\nWorkers have 2 chunks and may finish them.\n")
	require.Contains(t, plan.exits(4), "run "+busy+" was cancelled")
	open()
	status := s.over(busy)
	require.Equal(t, run.StateCancelled, status.State)
	require.Equal(t, run.Chunks{Total: 3, Done: 2, Dropped: 1}, status.Chunks)
	require.Equal(t, run.Tally{Total: 3, Copied: 2, Dropped: 1}, status.Images)
	require.Contains(t, s.planner("status").exits(0), "3: 2 copied, 1 dropped")

	s.planner("plan", "--wait").exits(0)
	s.requireMirrored("osism/one", "osism/two", "osism/three")
}

// TestCancelledMirrorBeginsAnew: the run of a killed mirror is cancelled in its store, and the next
// mirror does not continue it.
func TestCancelledMirrorBeginsAnew(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1")
	s.push("osism/other", "1")
	s.env["CHUNK_SIZE"] = "1"
	s.write("osism/tool", "osism/other")
	open := s.gate(blobs)
	first := s.planner("mirror")
	s.waitFor(blobs)
	first.kill()
	open()
	killed := runID(t, first.all.String())
	require.Contains(t, s.planner("cancel").exits(0), "Cancelled run "+killed)
	require.Equal(t, run.StateCancelled, s.status(killed).State)
	said := s.planner("mirror").exits(0)
	require.NotContains(t, said, "Going on")
	s.requireMirrored("osism/tool", "osism/other")
	require.Equal(t, run.StateCancelled, s.status(killed).State)
	require.Equal(t, run.StateDone, s.status().State)
}
