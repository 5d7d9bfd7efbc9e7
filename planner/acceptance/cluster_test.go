package acceptance

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
)

// TestClusterLosesAServer stops one server during a run, and then the other two, one after the
// other. Every server keeps everything.
func TestClusterLosesAServer(t *testing.T) {
	t.Parallel()
	cluster := brokertest.StartCluster(t)
	s := newSite(t)
	s.env["NATS_URL"], s.env["NATS_REPLICAS"] = cluster.Config().URL, "3"
	s.env["RATE_LIMITS"] = s.source.Host() + "=100/1h"
	s.env["CHUNK_SIZE"] = "1"
	s.push("osism/tool", "1", "2", "3")
	s.push("osism/other", "1")
	s.write("osism/tool", "osism/other", "osism/missing")
	open := s.gate(blobs)
	s.worker()
	s.worker()
	plan := s.planner("plan", "--wait")
	s.waitFor(blobs)
	lost := cluster.Leader(broker.StreamName)
	lost.Stop()
	open()

	require.Contains(t, plan.exitsWithin(redelivery, 1), "ended with failures")
	s.requireMirrored("osism/tool", "osism/other")
	images := s.status().Images
	require.Equal(t, run.Tally{Total: 5, Copied: 4 - images.Unchanged, Unchanged: images.Unchanged, Failed: 1}, images,
		"an image is unchanged if its chunk was delivered again")
	lost.Restart()
	cluster.Settle(broker.StreamName)

	s.push("osism/missing", "1")
	for _, server := range cluster.Nodes {
		server.Restart()
		cluster.Settle(broker.StreamName)
	}
	require.Len(t, s.failed(), 1)
	s.becomes(s.republish("--all"), run.StateDone)
	require.Empty(t, s.failed())
	s.requireMirrored("osism/missing")
	require.Equal(t, 5, s.source.Pulls())
	spent := s.status().Registries
	require.Len(t, spent, 1)
	require.Equal(t, 5, spent[0].Spent, strings.Join(strings.Fields(s.planner("status").exits(0)), " "))
}
