package acceptance

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// shortAckWait is short enough for chunks of killed workers to come back during a test.
const shortAckWait = 3 * time.Second

// shortenAckWait changes the consumer before workers start.
func shortenAckWait(t *testing.T, c broker.Config) {
	t.Helper()
	b := brokertest.Open(t, c)
	defer b.Close()
	config := b.Consumer.CachedInfo().Config
	config.AckWait = shortAckWait
	_, err := b.Stream.UpdateConsumer(t.Context(), config)
	require.NoError(t, err)
}

// children returns the running child processes of p.
func children(t *testing.T, p *process) (pids []string) {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.command.Process.Pid))
	require.NoError(t, err)
	for _, task := range tasks {
		list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", p.command.Process.Pid, task.Name()))
		if err == nil { // a thread may have ended meanwhile
			pids = append(pids, strings.Fields(string(list))...)
		}
	}
	return pids
}

// alive reports whether a process exists and is not a zombie.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestKilledWorker(t *testing.T) {
	t.Parallel()
	s, server := newFleet(t)
	shortenAckWait(t, server.Config())
	// Two images that hang are under way, each in a process of its own because it is not small. The
	// others are copied in the place that is left.
	s.push("osism/early", "1", "2", "3", "4")
	for _, repository := range []string{"ceph/late", "kolla/late"} {
		_, err := s.source.PushImage(repository, "1", registrytest.Image{Layers: []registrytest.Layer{{Seed: repository, Size: 1 << 20}}})
		require.NoError(t, err)
	}
	s.write("osism/early", "ceph/late", "kolla/late")
	const inFlight = 2
	s.env["COPY_ENGINE"], s.env["WORKER_CONCURRENCY"] = "skopeo", fmt.Sprint(inFlight+1)
	late := func(r registrytest.Request) bool { return strings.HasSuffix(r.Repository, "/late") }
	open := s.gate(registrytest.All(late, blobs))
	first := s.worker()
	plan := s.planner("plan", "--wait")
	s.waitFor(distinct(inFlight, registrytest.All(late, blobs), func(r registrytest.Request) string { return r.Repository }))
	require.Eventually(t, func() bool {
		tags, err := s.destination.Tags(prefix + "/osism/early")
		return err == nil && len(tags) == 4
	}, patience, tick)
	s.requireMirrored("osism/early")
	var processes []string
	require.Eventually(t, func() bool { // the skopeo of the early ones may not have ended yet
		processes = children(t, first)
		return len(processes) == inFlight
	}, patience, tick)

	first.kill()
	for _, pid := range processes {
		require.Eventually(t, func() bool { return !alive(pid) }, patience, tick, "skopeo outlives its worker")
	}
	open()
	s.worker()

	require.Contains(t, plan.exits(0), "is done")
	s.requireMirrored("osism/early", "ceph/late", "kolla/late")
	require.Equal(t, 4, s.source.Count(of("osism/early", pulls)))
	require.LessOrEqual(t, s.source.Count(registrytest.All(late, pulls)), 2*inFlight)
	require.Empty(t, s.failed())
}

func TestKilledMirror(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	shortenAckWait(t, broker.Config{Replicas: 1, DataDir: s.env["DATA_DIR"]})
	s.push("osism/early", "1", "2")
	s.push("osism/late", "1", "2")
	s.write("osism/early", "osism/late", "osism/missing")
	s.env["COPY_ENGINE"], s.env["WORKER_CONCURRENCY"] = "skopeo", "1"
	open := s.gate(of("osism/late", blobs))
	first := s.planner("mirror")
	first.says("Mirroring 3 entries in 1 chunk as run ")
	s.waitFor(of("osism/late", blobs))
	var processes []string
	require.Eventually(t, func() bool { // the skopeo before it may not have ended yet
		processes = children(t, first)
		return len(processes) == 1
	}, patience, tick)

	first.kill()
	require.Eventually(t, func() bool { return !alive(processes[0]) }, patience, tick, "skopeo outlives its worker")
	open()
	said := s.planner("mirror").exits(1)

	require.Contains(t, said, "Continuing run "+runID(t, first.all.String()))
	s.requireMirrored("osism/early", "osism/late")
	require.Equal(t, 2, s.source.Count(of("osism/early", pulls)))
	require.LessOrEqual(t, s.source.Count(of("osism/late", pulls)), 3)
	require.Len(t, s.failed(), 1)
	s.push("osism/missing", "1")
	s.planner("republish", "--all").exits(0)
	s.requireMirrored("osism/missing")
	require.Equal(t, run.StateDone, s.status().State)
}
