package consume

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
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

// TestRun: what is published is mirrored. The run ends with the right numbers.
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
	b.push(t, "1", "2", "3", "4")
	gate := make(chan struct{})
	defer b.from.Inject(registrytest.Fault{Match: blobs, Gate: gate})()
	begun := b.from.Notify(blobs)
	first := b.consumer(t)
	first.worker.Concurrency = 1
	tracker := b.plan(t, b.chunk())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- first.Run(ctx) }()
	<-begun
	cancel()
	close(gate)
	require.NoError(t, <-ended)
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

// TestBrokerRestartsWhileAChunkIsWorkedOn: no work is lost or done twice.
func TestBrokerRestartsWhileAChunkIsWorkedOn(t *testing.T) {
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
	impatient(t, b.Broker, 50*time.Millisecond)
	b.push(t, "1")
	b.plan(t, b.chunk())
	one := b.receive(t)
	two := b.receive(t)
	c := b.consumer(t)
	c.take(t.Context(), one, func() {})
	c.take(t.Context(), two, func() {})
	require.Empty(t, b.subjects(t, subject.Chunk+".>"))
	b.mirrored(t, "1")
	require.Equal(t, 1, b.from.Pulls())
}

// TestRemainderOfAnAcknowledgedChunk: a worker publishes nothing of a chunk that another
// worker has finished meanwhile.
func TestRemainderOfAnAcknowledgedChunk(t *testing.T) {
	b := embedded(t)
	impatient(t, b.Broker, 50*time.Millisecond)
	b.push(t, "1")
	b.plan(t, b.chunk())
	one := b.receive(t)
	two := b.receive(t)
	c := b.consumer(t)
	c.take(t.Context(), one, func() {})
	b.mirrored(t, "1")
	stopped, stop := context.WithCancel(t.Context())
	stop() // so that everything is left
	c.take(stopped, two, func() {})
	require.Empty(t, b.subjects(t, subject.OfRun(name, runID)))
}

// unacked is a message whose worker dies when it acknowledges the message.
type unacked struct {
	jetstream.Msg
	die func()
}

func (u unacked) DoubleAck(context.Context) error {
	u.die()
	return context.Canceled
}

// TestCrashBetweenPublishAndAck: the remainder is published before the message is
// acknowledged. The next delivery publishes its own under another subject. The images are
// mirrored, although they were in two messages.
func TestCrashBetweenPublishAndAck(t *testing.T) {
	b := embedded(t)
	impatient(t, b.Broker, 50*time.Millisecond)
	b.push(t, "1")
	remove := b.from.Inject(registrytest.Fault{Match: heads, Status: 429, Header: http.Header{"Retry-After": {"3600"}}})
	b.plan(t, b.chunk(message.Image{Tag: reference.MustTag("1")}))
	c := b.consumer(t)

	crashed, die := context.WithCancel(t.Context())
	d := delivery{consumer: c, work: t.Context(), msg: unacked{b.receive(t), die}}
	_, err := d.handle(crashed)
	require.Error(t, err)
	require.Len(t, b.subjects(t, subject.Later+".>"), 1)
	require.Len(t, b.subjects(t, subject.Chunk+".>"), 1)

	c.take(t.Context(), b.receive(t), func() {})
	later := b.subjects(t, subject.Later+".>")
	require.Len(t, later, 2, "each delivery has a subject of its own")
	require.Empty(t, b.subjects(t, subject.Chunk+".>"))
	for _, s := range later {
		m, err := b.Stream.GetLastMsgForSubject(t.Context(), s)
		require.NoError(t, err)
		left, err := message.Decode(m.Data)
		require.NoError(t, err)
		require.Equal(t, []message.Image{{Tag: reference.MustTag("1")}}, left.Repositories[0].Images)
	}

	remove()
	require.NoError(t, c.Sweep(t.Context(), time.Now().Add(2*time.Hour)))
	c.take(t.Context(), b.receive(t), func() {})
	c.take(t.Context(), b.receive(t), func() {})
	b.mirrored(t, "1")
	require.Empty(t, b.subjects(t, subject.OfRun(name, runID)))
	require.Equal(t, 1, b.from.Pulls())
}

// TestRemainderIsPublishedOnce: if the answer of the broker was lost, the next try finds
// the message.
func TestRemainderIsPublishedOnce(t *testing.T) {
	b := embedded(t)
	d := delivery{consumer: b.consumer(t), address: b.address("000001"), number: 1, sequence: 7}
	for _, after := range []time.Duration{0, time.Hour} {
		for range 2 {
			require.NoError(t, d.publish(t.Context(), d.address, after, nil, []byte("x")))
		}
	}
	info, err := b.Stream.Info(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, info.State.Msgs)
}

// TestLargeRemainderIsSplit: no piece is larger than a message may be.
func TestLargeRemainderIsSplit(t *testing.T) {
	b := embedded(t)
	var images []message.Image
	for i := range 6000 {
		images = append(images, message.Image{Tag: reference.MustTag(fmt.Sprintf("%05d-%s", i, strings.Repeat("x", 120)))})
	}
	tracker := b.plan(t, b.chunk())
	d := delivery{consumer: b.consumer(t), address: b.address("000001"), number: 1, sequence: 7}
	require.NoError(t, d.remainder(t.Context(), b.chunk(images...), b.chunk(images...).Repositories, time.Hour, ""))
	later := b.subjects(t, subject.Later+".>")
	require.Greater(t, len(later), 1)
	seen := map[string]bool{}
	for _, s := range later {
		m, err := b.Stream.GetLastMsgForSubject(t.Context(), s)
		require.NoError(t, err)
		require.Less(t, len(m.Data), message.MaxSize)
		piece, err := message.Decode(m.Data)
		require.NoError(t, err)
		for _, i := range piece.Repositories[0].Images {
			require.False(t, seen[i.Tag.String()])
			seen[i.Tag.String()] = true
		}
	}
	require.Len(t, seen, len(images))
	st, err := tracker.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, len(images), st.Images.Total)
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

// TestPartsAreShared: the many new tags of one repository are shared among workers. The
// parts count as the one chunk that they come from, and nothing is copied twice.
func TestPartsAreShared(t *testing.T) {
	const tags, distinct = 300, 100
	b := newHarness(t, brokertest.Open(t, brokertest.Start(t).Config()))
	names := registrytest.Numbered("%03d", tags)
	require.NoError(t, b.from.AddSynthetic(repository, registrytest.Synthetic{Tags: names, Distinct: distinct}))
	gate := make(chan struct{})
	b.from.Inject(registrytest.Fault{Match: gets, Gate: gate})
	// The first image of a family is copied alone, so two copies at once are of two workers.
	held := map[string]bool{}
	shared := b.from.Notify(func(r registrytest.Request) bool {
		if gets(r) {
			held[r.Reference] = true
		}
		return len(held) >= 2
	})
	workers := []*Consumer{b.consumer(t), b.consumer(t), b.consumer(t)}
	var stop []func()
	for _, c := range workers {
		stop = append(stop, start(t, c))
	}
	tracker := b.plan(t, b.chunk())
	select {
	case <-shared:
	case <-time.After(deadline):
		close(gate)
		t.Fatal("one worker has all of it")
	}
	st, err := tracker.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, run.StateRunning, st.State)
	require.Equal(t, run.Chunks{Total: 1, Running: 1}, st.Chunks)
	close(gate)

	st = over(t, tracker)
	require.Equal(t, run.StateDone, st.State)
	require.Equal(t, run.Chunks{Total: 1, Done: 1}, st.Chunks)
	require.Equal(t, run.Tally{Total: tags, Copied: distinct, Tagged: tags - distinct}, st.Images)
	require.Equal(t, distinct, st.Pulls)
	require.Equal(t, distinct, b.from.Pulls())
	b.mirrored(t, names...)
	require.Empty(t, b.subjects(t, "mirror.chunk.>"))
	split := 0
	for i, c := range workers {
		stop[i]()
		split += counted(t, c, countedChunks, metrics.ChunkSplit)
	}
	require.Equal(t, 1, split)
}

// TestEmbeddedBrokerSplitsNothing: no other worker could take a part.
func TestEmbeddedBrokerSplitsNothing(t *testing.T) {
	const tags = 81
	b := embedded(t)
	require.NoError(t, b.from.AddSynthetic(repository, registrytest.Synthetic{Tags: registrytest.Numbered("%03d", tags)}))
	c := b.consumer(t)
	stop := start(t, c)
	st := over(t, b.plan(t, b.chunk()))
	require.Equal(t, run.Tally{Total: tags, Copied: tags}, st.Images)
	stop()
	require.Zero(t, counted(t, c, countedChunks, metrics.ChunkSplit))
}
