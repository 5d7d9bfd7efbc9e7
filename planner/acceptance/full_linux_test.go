package acceptance

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
)

// many stores many images in a repository, and writes a list with a chunk for each. The progress of
// all chunks does not fit into the free pages of the broker.
func (s *site) many(repository string) {
	const images = 24
	var entries []string
	for i := range images {
		tag := fmt.Sprint(i + 1)
		s.push(repository, tag)
		entries = append(entries, repository+":"+tag)
	}
	s.write(entries...)
	s.env["CHUNK_SIZE"] = "1"
}

// TestFullDiskUnderMirror: planner mirror reports the full disk and ends. With room, the same
// command continues.
func TestFullDiskUnderMirror(t *testing.T) {
	t.Parallel()
	disk := brokertest.NewSmall(t)
	s := newSite(t)
	dir := filepath.Join(disk.Path, "data")
	s.env["DATA_DIR"] = dir
	s.many("osism/tool")
	open := s.gate(blobs)
	first := s.planner("mirror")
	s.waitFor(blobs)
	disk.Fill()
	open()
	said := first.exits(3)
	require.Contains(t, said, "planner: the broker's disk is full (DATA_DIR="+dir+"): free some space, then run the command again")

	for _, command := range []string{"mirror", "plan"} {
		require.Contains(t, s.planner(command).exits(3), "planner: the broker's disk is full", "as long as there is no room")
	}
	disk.Free()
	said = s.planner("mirror").exits(0)
	require.Contains(t, said, "Continuing run")
	s.requireMirrored("osism/tool")
	require.Equal(t, run.StateDone, s.status().State)
}

// TestFullDiskUnderTheBroker: planner and worker report the full disk. When the broker has
// restarted with room, the worker continues. Nothing is lost.
func TestFullDiskUnderTheBroker(t *testing.T) {
	t.Parallel()
	const full = "the broker's disk is full: free some space, then restart nats-server"
	disk := brokertest.NewSmall(t)
	broker := brokertest.Start(t, func(o *server.Options) { o.StoreDir = disk.Path })
	s := newSite(t)
	s.env["NATS_URL"] = broker.URL()
	s.push("osism/tool", "1", "2", "3")
	_, mend, err := s.source.BreakImage("osism/tool", "3")
	require.NoError(t, err)
	s.write("osism/tool")
	worker := s.worker()
	s.planner("plan", "--wait").exits(1)
	require.NoError(t, mend())
	s.many("osism/other")

	open := s.gate(of("osism/other", blobs))
	following := s.planner("plan", "--wait")
	s.waitFor(of("osism/other", blobs))
	disk.Fill()
	open()
	worker.says("the broker's disk is full")
	following.says(full)
	require.Contains(t, s.planner("plan").exits(3), full)
	require.Contains(t, s.planner("republish", "--all").exits(3), full)

	disk.Free()
	broker.Restart()
	following.exitsWithin(redelivery, 0)
	s.requireMirrored("osism/other")
	require.Len(t, s.failed(), 1)
	s.becomes(s.republish("--all"), run.StateDone)
	s.requireMirrored("osism/tool")
	require.Empty(t, s.failed())
}
