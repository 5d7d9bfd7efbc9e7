package acceptance

import (
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

func TestTwoWorkersShareARun(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.env["CHUNK_SIZE"] = "1"
	contents, err := registrytest.Catalogue(s.source)
	require.NoError(t, err)
	require.NoError(t, contents.Mend())
	var repositories []string
	images := 0
	for _, r := range contents.Repositories {
		repositories = append(repositories, r.Name)
		images += len(r.Tags)
	}
	s.write(repositories...)
	open := s.gate(blobs)
	s.worker()
	s.worker()
	plan := s.planner("plan", "--wait")

	// A worker has one chunk at a time, and each chunk has one repository.
	s.waitFor(distinct(2, blobs, repository))
	open()

	said := plan.exits(0)
	require.Regexp(t, `Run \S+ is done after \S+: `, said)
	s.requireMirrored(repositories...)
	first := s.status(runID(t, said))
	require.Equal(t, run.StateDone, first.State)
	require.Equal(t, run.Chunks{Total: len(repositories), Done: len(repositories)}, first.Chunks)
	require.Equal(t, images, first.Images.Total)
	require.Equal(t, images, first.Images.Copied+first.Images.Tagged)
	require.Equal(t, s.source.Pulls(), first.Pulls)

	s.source.ResetRequests()
	s.planner("plan", "--wait").exits(0)
	require.Zero(t, s.source.Pulls())
	second := s.status()
	require.Equal(t, run.Tally{Total: images, Unchanged: images}, second.Images)
	require.Zero(t, second.Pulls)
}

func TestBrokerRestartsInMidRun(t *testing.T) {
	t.Parallel()
	s, broker := newFleet(t)
	s.push("osism/tool", "1", "2", "3")
	s.push("osism/other", "1")
	s.write("osism/tool", "osism/other")
	s.env["CHUNK_SIZE"] = "1"
	open := s.gate(blobs)
	worker := s.worker()
	plan := s.planner("plan", "--wait")
	s.waitFor(blobs)

	broker.Stop()
	worker.says("lost the broker")
	plan.says("lost the broker")
	open()
	// Nothing else is requested while the broker cannot grant it. Then copies under way go on.
	broker.Restart()

	require.Contains(t, plan.exitsWithin(redelivery, 0), "is done")
	s.requireMirrored("osism/tool", "osism/other")
	require.Equal(t, 4, s.source.Pulls())
	images := s.status().Images
	require.Equal(t, 4, images.Total)
	require.Equal(t, 4, images.Copied+images.Tagged, "what arrived without its tag is only tagged later")
	require.Empty(t, s.failed())
}

func TestNewerPlanSupersedesWhatIsNotDue(t *testing.T) {
	t.Parallel()
	s, server := newFleet(t)
	s.push("osism/tool", "1")
	s.push("osism/other", "1")
	s.write("osism/tool", "osism/other")
	s.env["CHUNK_SIZE"], s.env["CHUNK_INTERVAL"] = "1", "1h"
	s.worker()
	waiting := s.planner("plan", "--wait")
	waiting.says("Published run")
	older := runID(t, waiting.all.String())
	require.Eventually(t, func() bool { return s.status(older).Chunks.Done == 1 }, patience, asking)
	require.NotNil(t, s.status(older).NextDue)

	newer := s.plan()
	require.Contains(t, waiting.exits(4), "run "+older+" was superseded")
	require.Equal(t, run.StateSuperseded, s.status(older).State)
	require.Eventually(t, func() bool { return s.status(newer).Chunks == run.Chunks{Total: 2, Waiting: 1, Done: 1} }, patience, asking)
	b := brokertest.Open(t, server.Config())
	info, err := b.Stream.Info(t.Context(), jetstream.WithSubjectFilter(subject.OfName(subject.Plan, "default")))
	require.NoError(t, err)
	require.Len(t, info.State.Subjects, 1)
	for plan := range info.State.Subjects {
		require.Contains(t, plan, newer)
	}

	waiting = s.planner("status", "--watch", newer)
	waiting.says("1/2 chunks")
	require.Contains(t, s.planner("cancel", newer).exits(0), "Cancelled run "+newer+": 1 chunk")
	waiting.exits(0)
	require.Equal(t, run.StateCancelled, s.status(newer).State)
}

func TestStoppedWorkerHandsOver(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.push("osism/tool", "1", "2", "3", "4")
	s.push("osism/other", "1")
	s.write("osism/tool", "osism/other")
	s.env["CHUNK_SIZE"], s.env["WORKER_CONCURRENCY"] = "1", "1"
	open := s.gate(blobs)
	worker := s.worker()
	plan := s.planner("plan", "--wait")
	s.waitFor(blobs)

	worker.signal(syscall.SIGTERM)
	worker.says("stopping")
	open()
	worker.exits(0)
	// The worker has finished the copy under way, and has started no other.
	require.Equal(t, 1, s.source.Pulls())

	second := s.worker()
	plan.exits(0)
	s.requireMirrored("osism/tool", "osism/other")
	require.Equal(t, 5, s.source.Pulls())
	require.Equal(t, run.Tally{Total: 5, Copied: 5}, s.status().Images)
	second.signal(syscall.SIGTERM)
	second.exits(0)
}

func TestStoppedWorkerLeavesACopyThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.push("osism/tool", "1")
	s.write("osism/tool:1")
	open := s.gate(blobs)
	worker := s.worker()
	plan := s.planner("plan", "--wait")
	s.waitFor(blobs)

	worker.signal(syscall.SIGTERM)
	worker.exits(0) // after its grace period

	open()
	s.worker()
	plan.exits(0)
	s.requireMirrored("osism/tool")
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, s.status().Images)
	require.Empty(t, s.failed())
}
