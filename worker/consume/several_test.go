package consume

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/metrics"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// holding waits until workers hold so many chunks.
func (b *harness) holding(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		info, err := b.Consumer.Info(t.Context())
		return err == nil && info.NumAckPending == n
	}, deadline, often)
}

// holds waits until the worker holds n chunks. It counts a chunk a moment after the broker has delivered
// it.
func (c *Consumer) holds(t *testing.T, n int64) {
	t.Helper()
	require.Eventually(t, func() bool { return c.held.Load() == n }, deadline, often)
}

// TestSeveralChunksAtOnce: the only worker holds a few chunks, and no more. Fewer of them are not
// compared yet.
func TestSeveralChunksAtOnce(t *testing.T) {
	b := embedded(t)
	tags := registrytest.Numbered("%d", chunksAtOnce+2)
	b.push(t, tags...)
	looked, copied := make(chan struct{}), make(chan struct{})
	defer b.from.Inject(registrytest.Fault{Match: heads, Gate: looked})()
	defer b.from.Inject(registrytest.Fault{Match: blobs, Gate: copied})()
	tracker := b.planEach(t, tags...)
	c := b.consumer(t)
	c.worker.Concurrency = len(tags)
	stop := start(t, c)
	for _, stage := range []struct {
		held int
		gate chan struct{}
	}{{comparedAtOnce, looked}, {chunksAtOnce, copied}} {
		b.holding(t, stage.held)
		info, err := b.Consumer.Info(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, len(tags)-stage.held, info.NumPending)
		require.Zero(t, info.NumWaiting, "the worker asks for another chunk")
		close(stage.gate)
	}
	require.Equal(t, run.Tally{Total: len(tags), Copied: len(tags)}, over(t, tracker).Images)
	b.mirrored(t, tags...)
	stop()
	require.Zero(t, c.held.Load())
	require.Zero(t, c.known.Load())
}

// TestEveryChunkIsRequested: a worker that takes one chunk right after the other requests each of
// them, instead of waiting for the heartbeats of a request that it has not sent.
func TestEveryChunkIsRequested(t *testing.T) {
	b := embedded(t)
	const chunks = 500
	for i := range chunks {
		_, err := b.JS.Publish(t.Context(), fmt.Sprintf("%s.test.%d", subject.Chunk, i), nil)
		require.NoError(t, err)
	}
	c := b.consumer(t)
	var log strings.Builder
	c.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	messages, err := b.Consumer.Messages(jetstream.PullMaxMessages(1), jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullHeartbeat))
	require.NoError(t, err)
	defer messages.Stop()
	for range 4 * runtime.GOMAXPROCS(0) { // so that the connection is busy
		go func() {
			for t.Context().Err() == nil {
				_ = b.Conn.Publish("test", nil)
			}
		}()
	}
	for range chunks {
		_, err := c.next(messages)
		require.NoError(t, err)
	}
	require.Empty(t, log.String())
}

// TestSIGTERMWithSeveralChunks: the copies under way end, the other chunks are requeued at once,
// and another worker works them off.
func TestSIGTERMWithSeveralChunks(t *testing.T) {
	b := embedded(t)
	tags := registrytest.Numbered("%d", comparedAtOnce)
	b.push(t, tags...)
	found, gate := make(chan struct{}), make(chan struct{})
	defer b.from.Inject(registrytest.Fault{Match: heads, Gate: found})()
	defer b.from.Inject(registrytest.Fault{Match: blobs, Gate: gate})()
	begun := b.from.Notify(blobs)
	first := b.consumer(t)
	first.worker.Concurrency = 1
	tracker := b.planEach(t, tags...)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- first.Run(ctx) }()
	b.holding(t, comparedAtOnce)
	close(found)
	<-begun
	cancel()
	close(gate)
	require.NoError(t, <-ended)
	require.Equal(t, 1, counted(t, first, countedChunks, metrics.ChunkDone))
	require.Equal(t, comparedAtOnce-1, counted(t, first, countedChunks, metrics.ChunkInterrupted))
	require.Len(t, b.subjects(t, subject.Chunk+".>"), comparedAtOnce-1)

	start(t, b.consumer(t))
	require.Equal(t, run.Tally{Total: len(tags), Copied: len(tags)}, over(t, tracker).Images)
	require.Equal(t, len(tags), b.from.Pulls(), "nothing twice")
}

// TestShareOfAFleet: a worker that does not know how much it has to do holds several chunks only
// while more are left for the others.
func TestShareOfAFleet(t *testing.T) {
	b := newHarness(t, brokertest.Open(t, brokertest.Start(t).Config()))
	tags := registrytest.Numbered("%d", 6)
	b.push(t, tags...)
	gate := make(chan struct{})
	defer b.from.Inject(registrytest.Fault{Match: heads, Gate: gate})()
	tracker := b.planEach(t, tags...)
	first := b.consumer(t)
	start(t, first)
	b.holding(t, 3) // three are left
	for n := range 3 {
		other := b.consumer(t)
		start(t, other)
		b.holding(t, 3+n+1)
		other.holds(t, 1)
	}
	first.holds(t, 3)
	close(gate)
	require.Equal(t, run.Tally{Total: len(tags), Copied: len(tags)}, over(t, tracker).Images)
}

// TestShareOfAWorkerThatHasLittleToDo: if a worker has compared its chunks and has room for more
// copies, it takes one of the last chunks, and the next one when it has compared that.
func TestShareOfAWorkerThatHasLittleToDo(t *testing.T) {
	b := newHarness(t, brokertest.Open(t, brokertest.Start(t).Config()))
	tags := registrytest.Numbered("%d", chunksAtOnce)
	b.push(t, tags...)
	looked, copied := make(chan struct{}), make(chan struct{})
	defer b.from.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref(tags[0])), Gate: looked})()
	defer b.from.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref(tags[chunksAtOnce-1])), Gate: copied})()
	defer b.from.Inject(registrytest.Fault{Match: blobs, Gate: copied})()
	tracker := b.planEach(t, tags...)
	first := b.consumer(t)
	first.worker.Concurrency = chunksAtOnce
	start(t, first)
	b.holding(t, chunksAtOnce/2)
	close(looked)
	b.holding(t, chunksAtOnce)
	close(copied)
	require.Equal(t, run.Tally{Total: len(tags), Copied: len(tags)}, over(t, tracker).Images)
}

// TestChunkThatMayCrashItsWorker: a chunk that was delivered several times without an outcome
// is held alone. It begins when the others have ended, and no other chunk is taken meanwhile.
func TestChunkThatMayCrashItsWorker(t *testing.T) {
	b := embedded(t)
	tags := []string{"suspect", "before", "after"}
	b.push(t, tags...)
	tracker := b.planEach(t, tags...)
	suspect, other, last := b.receive(t), b.receive(t), b.receive(t)
	for range fewDeliveries - 1 {
		require.NoError(t, suspect.Nak())
		suspect = b.receive(t)
	}
	gate := make(chan struct{})
	defer b.from.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref("before")), Gate: gate})()
	begun := b.from.Notify(heads)
	require.NoError(t, other.Nak())
	start(t, b.consumer(t))
	<-begun
	require.NoError(t, suspect.Nak())
	b.waiting(t, 0)
	require.NoError(t, last.Nak())
	close(gate)
	over(t, tracker)
	b.mirrored(t, tags...)
	var order []string
	for _, r := range b.from.Requests() {
		if heads(r) {
			order = append(order, r.Reference)
		}
	}
	require.Equal(t, []string{"before", "suspect", "after"}, slices.Compact(order))
}

// TestDrainedOfSeveralChunks: in whatever order the chunks end, the last one reports that none is
// left.
func TestDrainedOfSeveralChunks(t *testing.T) {
	b := embedded(t)
	tags := registrytest.Numbered("%d", 2*chunksAtOnce)
	b.push(t, tags...)
	tracker := b.planEach(t, tags...)
	c := b.consumer(t)
	start(t, c)
	for {
		select {
		case <-c.Drained():
		case <-time.After(deadline):
			require.Fail(t, "nothing shows that all is done")
		}
		st, err := tracker.Status(t.Context())
		require.NoError(t, err)
		if st.Over() {
			require.Equal(t, run.Tally{Total: len(tags), Copied: len(tags)}, st.Images)
			return
		}
	}
}
