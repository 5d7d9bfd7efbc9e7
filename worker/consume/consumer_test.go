package consume

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/metrics"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestRun: the published chunks are mirrored, and the run ends with the right numbers.
func TestRun(t *testing.T) {
	b := embedded(t)
	b.push(t, "1", "2", "3")
	_, _, err := b.from.BreakImage(repository, "3")
	require.NoError(t, err)
	start(t, b.consumer(t))
	st := over(t, b.plan(t, b.chunk()))
	require.Equal(t, run.StateFailed, st.State)
	require.Equal(t, run.Tally{Total: 3, Copied: 2, Failed: 1}, st.Images)
	require.Equal(t, run.Chunks{Total: 1, Done: 1}, st.Chunks)
	require.Equal(t, 3, st.Pulls)
	b.mirrored(t, "1", "2")
	require.Len(t, b.failures(t), 1)
	require.Empty(t, b.subjects(t, subject.Chunk+".>"))
}

// TestSnoozedChunkCountsOnce: each image of a chunk that is snoozed several times counts
// once.
func TestSnoozedChunkCountsOnce(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	b.push(t, "1", "2", "3", "4")
	// skopeo logs only waits above two seconds, so the HEAD gets the 429.
	defer b.from.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref("4")), Times: 2, Status: 429,
		Header: http.Header{"Retry-After": {"1"}}})()
	tracker := b.plan(t, b.chunk())
	c := b.consumer(t)
	stop := start(t, c)
	var snoozed run.Status
	require.Eventually(t, func() bool {
		var err error
		snoozed, err = tracker.Status(t.Context())
		return err == nil && snoozed.Chunks.Snoozed == 1
	}, deadline, often)
	require.Equal(t, run.StateSnoozed, snoozed.State)
	require.NotNil(t, snoozed.NextDue)
	st := over(t, tracker)
	require.Equal(t, run.StateDone, st.State)
	require.Equal(t, run.Tally{Total: 4, Copied: 4}, st.Images)
	require.Equal(t, run.Chunks{Total: 1, Done: 1}, st.Chunks)
	require.Equal(t, 4, b.from.Pulls())
	b.mirrored(t, "1", "2", "3", "4")
	stop()
	require.Equal(t, 2, counted(t, c, countedChunks, metrics.ChunkSnoozed))
	require.Equal(t, 1, counted(t, c, countedChunks, metrics.ChunkDone))
	require.Equal(t, 4, counted(t, c, countedImages, "copied"))
}

// TestSIGTERM: images that have not begun are requeued at once, due now, and another worker
// mirrors them.
func TestSIGTERM(t *testing.T) {
	b := embedded(t)
	first, tracker, stop := b.copying(t, "1", "2", "3", "4")
	stop()
	require.Equal(t, 1, counted(t, first, countedChunks, metrics.ChunkInterrupted))
	require.Len(t, b.subjects(t, subject.Chunk+".>"), 1)
	require.Empty(t, b.subjects(t, subject.Later+".>"))

	start(t, b.consumer(t))
	st := over(t, tracker)
	require.Equal(t, run.Tally{Total: 4, Copied: 4}, st.Images)
	require.Equal(t, 4, b.from.Pulls(), "nothing twice")
}

// TestHeartbeat: a worker keeps a chunk that takes longer than AckWait.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	const wait = 500 * time.Millisecond
	impatient(t, b.Broker, wait)
	b.push(t, "1")
	gate := make(chan struct{})
	defer b.from.Inject(registrytest.Fault{Match: blobs, Gate: gate})()
	begun := b.from.Notify(blobs)
	tracker := b.plan(t, b.chunk())
	start(t, b.consumer(t))
	start(t, b.consumer(t)) // would receive it again
	<-begun
	waited := time.Now()
	require.Eventually(t, func() bool { return time.Since(waited) > 4*wait }, deadline, wait/2)
	info, err := b.Consumer.Info(t.Context())
	require.NoError(t, err)
	require.Zero(t, info.NumRedelivered)
	close(gate)
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, over(t, tracker).Images)
	require.Equal(t, 1, b.from.Count(registrytest.All(gets)))
}

// TestBrokerRestartsWhileAChunkIsWorkedOn: if the broker restarts, no work is lost or done twice.
func TestBrokerRestartsWhileAChunkIsWorkedOn(t *testing.T) {
	t.Parallel()
	server := brokertest.Start(t)
	b := newHarness(t, brokertest.Open(t, server.Config()))
	b.push(t, "1", "2", "3")
	_, _, err := b.from.BreakImage(repository, "2")
	require.NoError(t, err)
	gate := make(chan struct{})
	defer b.from.Inject(registrytest.Fault{Match: blobs, Gate: gate})()
	begun := b.from.Notify(blobs)
	tracker := b.plan(t, b.chunk())
	start(t, b.consumer(t))
	<-begun
	server.Stop()
	close(gate) // the failure is recorded and the chunk acknowledged after the restart
	require.NoError(t, b.from.WaitFor(t.Context(), registrytest.All(blobs, registrytest.Answered(404))))
	server.Restart()
	require.Equal(t, run.Tally{Total: 3, Copied: 2, Failed: 1}, over(t, tracker).Images)
	require.Equal(t, 3, b.from.Pulls())
	require.Len(t, b.failures(t), 1)
	b.mirrored(t, "1", "3")
}

// TestTwoWorkersHoldOneChunk: an acknowledgement does not stop the other worker, and the
// first does not wait for it.
func TestTwoWorkersHoldOneChunk(t *testing.T) {
	b := embedded(t)
	one, two := b.receiveTwice(t)
	c := b.consumer(t)
	c.take(t.Context(), one, func() {})
	c.take(t.Context(), two, func() {})
	require.Empty(t, b.subjects(t, subject.Chunk+".>"))
	b.mirrored(t, "1")
	require.Equal(t, 1, b.from.Pulls())
}

// TestSuperseded: entries that a newer run has resolved are dropped from an older run's
// remainders, but not from its first deliveries.
func TestSuperseded(t *testing.T) {
	b := embedded(t)
	b.push(t, "1")
	c := b.consumer(t)
	tracker := b.plan(t, b.chunk(message.Image{Tag: reference.MustTag("1")}))
	newer := b.chunk()
	newer.Run = "20260102-000000-000-0000"
	require.NoError(t, c.worker.Notes.Resolved(t.Context(), newer, newer.Repositories[0]))
	older := b.chunk()
	require.NoError(t, c.worker.Notes.Resolved(t.Context(), older, older.Repositories[0]), "it stays the newer one's")
	start(t, c)
	require.Equal(t, run.Tally{Total: 1, Skipped: 1}, over(t, tracker).Images)
	require.Empty(t, b.from.Requests())

	other := older.Repositories[0]
	other.Tag = reference.MustTag("1")
	superseded, err := c.worker.Notes.Superseded(t.Context(), older, other)
	require.NoError(t, err)
	require.False(t, superseded, "another entry")
}

// TestRepublish: a failure is recorded before the message is acknowledged, and removed
// after a republish has mirrored the image.
func TestRepublish(t *testing.T) {
	b := embedded(t)
	b.push(t, "1", "2")
	_, mend, err := b.from.BreakImage(repository, "2")
	require.NoError(t, err)
	start(t, b.consumer(t))
	over(t, b.plan(t, b.chunk()))
	require.Len(t, b.failures(t)[0].Images, 1)
	require.NoError(t, mend())
	done, err := failure.NewStore(b.Broker, slog.New(slog.DiscardHandler)).Republish(t.Context(), name, "20260103-000000-000-0000", func(failure.Record, failure.Image) bool { return true })
	require.NoError(t, err)
	require.Equal(t, 1, done.Images)
	require.Eventually(t, func() bool {
		_, err := b.to.Digest(destination, "2")
		return err == nil && len(b.subjects(t, subject.Chunk+".>")) == 0
	}, deadline, often)
	require.Empty(t, b.failures(t))
	b.mirrored(t, "1", "2")
}

// outage is a state of all registries.
type outage struct{ closed error }

func (o outage) Open(context.Context, ...reference.Repository) (bool, error) {
	return false, o.closed
}
func (o outage) Blames(context.Context, error) error                 { return nil }
func (o outage) Known(_, _ reference.Repository, _ reference.Digest) {}

// TestWaitsForARegistry: the progress of a remainder names the registry that it waits for.
func TestWaitsForARegistry(t *testing.T) {
	b := embedded(t)
	b.push(t, "1")
	c := b.consumer(t)
	c.worker.Registries = outage{&budget.SpentError{Registry: b.to.Host(), Slot: time.Now().Add(time.Hour), Since: time.Now(), Reason: "503"}}
	tracker := b.plan(t, b.chunk(message.Image{Tag: reference.MustTag("1")}))
	start(t, c)
	require.Eventually(t, func() bool {
		st, err := tracker.Status(t.Context())
		return err == nil && st.State == run.StateSnoozed && len(st.Away) == 1 && st.Away[0] == b.to.Host()
	}, deadline, often)
	require.Empty(t, b.from.Requests())
}

// TestCutOff: a worker that alone does not reach a registry leaves the chunks to others.
func TestCutOff(t *testing.T) {
	b := embedded(t)
	b.push(t, "1")
	cutOff, other := b.consumer(t), b.consumer(t)
	cutOff.worker.Registries = outage{&budget.SpentError{Registry: b.to.Host(), Slot: time.Now(), Since: time.Now(), Reason: "503", CutOff: true}}
	cutOff.pause = time.Hour
	tracker := b.plan(t, b.chunk())
	stop := start(t, cutOff)
	require.Eventually(t, func() bool { return counted(t, cutOff, countedChunks, metrics.ChunkSnoozed) == 1 }, deadline, often)
	start(t, other)
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, over(t, tracker).Images)
	stop()
	require.Equal(t, 1, counted(t, cutOff, countedChunks, metrics.ChunkSnoozed))
	require.Equal(t, 1, counted(t, other, countedChunks, metrics.ChunkDone))
}
