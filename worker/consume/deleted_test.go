package consume

import (
	"bytes"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/semaphore"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// transcript is a log that can be read while it is written.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// logged returns the log of the workers that are made from now on.
func (b *harness) logged() *transcript {
	var t transcript
	b.log = slog.New(slog.NewTextHandler(&t, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return &t
}

// planEach publishes a run with a chunk for each tag, due now.
func (b *harness) planEach(t *testing.T, tags ...string) *run.Tracker {
	t.Helper()
	now := time.Now().UTC()
	require.NoError(t, b.runs.Put(t.Context(), run.Run{Name: name, ID: runID, Kind: run.KindPlan, Chunks: len(tags), Entries: len(tags),
		Started: now, FirstDue: now, Published: true}))
	for i, tag := range tags {
		c := b.chunk(message.Image{Tag: reference.MustTag(tag)})
		c.Number = i + 1
		data, err := c.Encode()
		require.NoError(t, err)
		b.send(t, b.address(fmt.Sprintf("%06d", i+1)).Under(subject.Chunk), data)
	}
	tracker, err := b.runs.Track(t.Context(), name, runID)
	require.NoError(t, err)
	return tracker
}

// waiting waits until so many workers wait for a chunk.
func (b *harness) waiting(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		info, err := b.Consumer.Info(t.Context())
		return err == nil && info.NumWaiting == n
	}, deadline, often)
}

// TestConsumerIsDeletedUnderIdleWorkers: idle workers create it again and continue.
func TestConsumerIsDeletedUnderIdleWorkers(t *testing.T) {
	b := embedded(t)
	b.push(t, "1")
	said := b.logged()
	start(t, b.consumer(t))
	start(t, b.consumer(t))
	for range 2 {
		b.waiting(t, 2)
		require.NoError(t, b.Stream.DeleteConsumer(t.Context(), broker.ConsumerName))
	}
	st := over(t, b.plan(t, b.chunk()))
	require.Equal(t, run.StateDone, st.State)
	b.mirrored(t, "1")
	require.Contains(t, said.String(), "the consumer was deleted at the broker")
}

// TestConsumerIsDeletedUnderBusyWorkers: it is created again while all workers are busy.
// Nothing is lost, and only the chunks that the workers had are delivered again.
func TestConsumerIsDeletedUnderBusyWorkers(t *testing.T) {
	t.Parallel()
	const workers = 3
	b := embedded(t)
	tags := []string{"1", "2", "3", "4", "5"}
	b.push(t, tags...)
	gate := make(chan struct{})
	remove := b.from.Inject(registrytest.Fault{Match: blobs, Gate: gate})
	begun := b.from.Notify(blobs)
	tracker := b.planEach(t, tags...)
	for range workers {
		c := b.consumer(t)
		c.places = semaphore.NewWeighted(1)
		start(t, c)
	}
	for range workers {
		<-begun
	}
	before, err := b.Consumer.Info(t.Context())
	require.NoError(t, err)
	require.NoError(t, b.Stream.DeleteConsumer(t.Context(), broker.ConsumerName))
	require.Eventually(t, func() bool {
		after, err := b.Consumer.Info(t.Context())
		return err == nil && !after.Created.Equal(before.Created)
	}, deadline, often)
	close(gate)
	remove()
	st := over(t, tracker)
	require.Equal(t, run.StateDone, st.State)
	require.Equal(t, run.Chunks{Total: len(tags), Done: len(tags)}, st.Chunks)
	require.Equal(t, len(tags), st.Images.Total)
	b.mirrored(t, tags...)
	require.Empty(t, b.subjects(t, subject.OfRun(name, runID)))
	require.Empty(t, b.failures(t))
	require.LessOrEqual(t, b.from.Count(gets), len(tags)+workers, "nothing but what the workers had is given to others")
}

// TestDoneWithoutItsConsumer: a worker finishes a message that the recreated consumer has
// not delivered. The consumer ignores the acknowledgement.
func TestDoneWithoutItsConsumer(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	b.push(t, "1")
	b.plan(t, b.chunk())
	m := b.receive(t)
	require.NoError(t, b.Stream.DeleteConsumer(t.Context(), broker.ConsumerName))
	require.NoError(t, b.Ensure(t.Context()))
	c := b.consumer(t)
	c.take(t.Context(), m, func() {})
	require.Empty(t, b.subjects(t, subject.Chunk+".>"))
	b.mirrored(t, "1")

	// A worker deletes only its own message.
	d := delivery{consumer: c, msg: m, sequence: 1}
	require.NoError(t, b.Stream.Purge(t.Context()))
	b.send(t, b.address("000002").Under(subject.Chunk), nil)
	require.NoError(t, d.acknowledge(t.Context()))
	require.Len(t, b.subjects(t, subject.Chunk+".>"), 1)
}

// TestEverythingIsDeleted: streams and buckets that are deleted under a running worker are
// created again, and the worker goes on.
func TestEverythingIsDeleted(t *testing.T) {
	var said transcript
	opened, err := broker.Open(t.Context(), broker.Config{DataDir: t.TempDir()}, broker.Options{Log: slog.New(slog.NewTextHandler(&said, nil))})
	require.NoError(t, err)
	t.Cleanup(opened.Close)
	b := newHarness(t, opened)
	b.push(t, "1")
	start(t, b.consumer(t))
	b.waiting(t, 1)
	names := b.JS.StreamNames(t.Context())
	var deleted []string
	for name := range names.Name() {
		require.NoError(t, b.JS.DeleteStream(t.Context(), name))
		deleted = append(deleted, name)
	}
	require.NoError(t, names.Err())
	require.Contains(t, deleted, broker.StreamName)
	require.Contains(t, deleted, "KV_"+run.Bucket)
	for _, name := range deleted {
		require.Eventually(t, func() bool {
			_, err := b.JS.Stream(t.Context(), name)
			return err == nil
		}, deadline, often, name)
	}
	require.Eventually(t, func() bool {
		_, err := b.Consumer.Info(t.Context())
		return err == nil
	}, deadline, often)
	st := over(t, b.plan(t, b.chunk()))
	require.Equal(t, run.StateDone, st.State)
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, st.Images)
	b.mirrored(t, "1")
	require.Contains(t, said.String(), "the stream was deleted at the broker")
	require.Contains(t, said.String(), "stream=KV_"+run.Bucket)
}

// TestLimitsUnderARunningWorker: a limit of the stream ends the worker, because the stream
// may drop chunks from then on.
func TestLimitsUnderARunningWorker(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	c := b.consumer(t)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(t.Context()) }()
	b.waiting(t, 1)
	config := b.Stream.CachedInfo().Config
	config.MaxMsgs = 10
	_, err := b.JS.UpdateStream(t.Context(), config)
	require.NoError(t, err)
	require.ErrorIs(t, <-ended, broker.ErrForeignStream)
}
