package acceptance

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
)

// TestLostRun: if chunks disappear from the broker without a command that drops them, no run ends
// normally.
func TestLostRun(t *testing.T) {
	t.Parallel()
	s, server := newFleet(t)
	s.push("osism/tool", "1", "2", "3")
	s.write("osism/tool:1", "osism/tool:2", "osism/tool:3")
	s.env["CHUNK_SIZE"], s.env["CHUNK_INTERVAL"] = "1", "1h"
	worker := s.worker()
	waiting := s.planner("plan", "--wait")
	waiting.says("1/3 chunks")
	b := brokertest.Open(t, server.Config())
	require.NoError(t, b.JS.DeleteStream(t.Context(), broker.StreamName))
	said := waiting.exits(4)
	require.Contains(t, said, "has LOST 2 of 3 chunks")
	require.Contains(t, said, "planner: unfinished: run "+runID(t, said)+" has lost 2 chunks: plan again, and find out who deleted messages of stream MIRROR at the broker")
	require.Contains(t, s.planner("status").exits(0), "2 of 3 chunks LOST")
	status := s.status()
	require.Equal(t, run.StateLost, status.State)
	require.Equal(t, run.Chunks{Total: 3, Done: 1, Lost: 2}, status.Chunks)
	worker.says("the stream was deleted at the broker")

	s.env["CHUNK_INTERVAL"] = "0s"
	s.planner("plan", "--wait").exits(0)
	s.requireMirrored("osism/tool")
	require.Equal(t, run.StateLost, s.status(runID(t, said)).State, "the newer run has nothing of it to take over")
}

// TestLostRunWithoutAStream: a run is lost, too, if nothing creates the deleted stream again.
func TestLostRunWithoutAStream(t *testing.T) {
	t.Parallel()
	s, server := newFleet(t)
	s.push("osism/tool", "1", "2")
	s.write("osism/tool:1", "osism/tool:2")
	s.env["CHUNK_SIZE"] = "1"
	waiting := s.planner("plan", "--wait")
	waiting.says("0/2 chunks")
	b := brokertest.Open(t, server.Config())
	require.NoError(t, b.JS.DeleteStream(t.Context(), broker.StreamName))
	said := waiting.exits(4)
	require.Contains(t, said, "planner: unfinished: run "+runID(t, said)+" has lost 2 chunks")
}
