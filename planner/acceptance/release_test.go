package acceptance

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
)

// oldestBroker is the oldest supported version of nats-server.
const oldestBroker = "2.14.4"

// TestOldestBroker: everything works with the oldest supported broker.
func TestOldestBroker(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.env["NATS_URL"] = brokertest.StartRelease(t, oldestBroker).URL()
	s.env["CHUNK_SIZE"] = "1"
	s.push("osism/tool", "1", "2")
	s.push("osism/broken", "1")
	_, mend, err := s.source.BreakImage("osism/broken", "1")
	require.NoError(t, err)
	s.write("osism/tool:1", "osism/tool:2", "osism/broken:1")
	worker := s.worker()
	worker.says("level=WARN msg=\"nats-server before 2.15.2 can lose")
	require.Contains(t, s.planner("plan", "--wait").exits(1), "level=WARN msg=\"nats-server before 2.15.2 can lose")
	require.Equal(t, run.Chunks{Total: 3, Done: 3}, s.status().Chunks)

	require.NoError(t, mend())
	s.becomes(s.republish("--all"), run.StateDone)
	s.requireMirrored("osism/tool", "osism/broken")
	require.Empty(t, s.failed())

	later := s.with("CHUNK_INTERVAL", "1h")
	older, cancelled := later.plan(), later.plan()
	s.planner("cancel").exits(0)
	s.becomes(older, run.StateSuperseded)
	s.becomes(cancelled, run.StateCancelled)
	s.planner("plan", "--wait").exits(0)
}
