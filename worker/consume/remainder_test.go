package consume

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/metrics"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestRemainderOfAnAcknowledgedChunk: a worker publishes nothing of a chunk that another
// worker has finished meanwhile.
func TestRemainderOfAnAcknowledgedChunk(t *testing.T) {
	b := embedded(t)
	one, two := b.receiveTwice(t)
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
	require.NoError(t, c.sweepOnce(t.Context(), time.Now().Add(2*time.Hour)))
	c.take(t.Context(), b.receive(t), func() {})
	c.take(t.Context(), b.receive(t), func() {})
	b.mirrored(t, "1")
	require.Empty(t, b.subjects(t, subject.OfRun(name, runID)))
	require.Equal(t, 1, b.from.Pulls())
}

// TestKilledBeforeItPublishes: if a worker is killed after it has recorded a remainder and before
// it publishes it, the remainder is not lost when another worker finishes the chunk.
func TestKilledBeforeItPublishes(t *testing.T) {
	b := embedded(t)
	b.push(t, "1")
	tracker := b.plan(t, b.chunk())
	m := b.receive(t)
	meta, err := m.Metadata()
	require.NoError(t, err)
	never := run.Progress{State: run.Snoozed, Images: run.Tally{Total: 1}}
	require.NoError(t, b.runs.Record(t.Context(), b.address("000001").Remainder(meta.Sequence.Stream, newMark(), 1), never))
	b.consumer(t).take(t.Context(), m, func() {})
	st, err := tracker.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, run.StateDone, st.State)
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, st.Images)
}

// TestKilledAfterAnotherWasDone: if a chunk is acknowledged late, it is delivered again. If the
// second worker is killed, the records of the first stay.
func TestKilledAfterAnotherWasDone(t *testing.T) {
	b := embedded(t)
	impatient(t, b.Broker, 50*time.Millisecond)
	b.push(t, "1")
	tracker := b.plan(t, b.chunk())
	c := b.consumer(t)
	late, crash := context.WithCancel(t.Context())
	one := delivery{consumer: c, work: t.Context(), msg: unacked{b.receive(t), crash}}
	_, err := one.handle(late)
	require.Error(t, err)

	two := delivery{consumer: c, work: t.Context(), msg: b.receive(t)}
	killed, kill := context.WithCancel(t.Context())
	b.from.Inject(registrytest.Fault{Match: func(registrytest.Request) bool {
		if killed.Err() == nil {
			require.NoError(t, two.store(killed), "as every second")
			kill()
		}
		return false
	}})
	_, err = two.handle(killed)
	require.Error(t, err)
	require.NoError(t, c.broker.Delete(t.Context(), two.sequence), "the acknowledgement comes")
	st, err := tracker.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, run.StateDone, st.State)
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

// TestPartsAreShared: the many new tags of one repository are shared among workers. The parts count
// as one chunk, and nothing is copied twice.
func TestPartsAreShared(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
