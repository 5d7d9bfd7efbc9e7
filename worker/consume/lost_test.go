package consume

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// purge deletes the messages of the run, as somebody at the broker would.
func (b *bench) purge(t *testing.T) {
	t.Helper()
	require.NoError(t, b.Stream.Purge(t.Context(), jetstream.WithPurgeSubject(subject.OfRun(name, runID))))
}

// TestPurgedUnderAWorker: what the worker has left of its chunk is published all the
// same, and what nobody had is lost, and said to be.
func TestPurgedUnderAWorker(t *testing.T) {
	b := embedded(t)
	b.push(t, "1", "2")
	said := b.tell()
	gate := make(chan struct{})
	remove := b.from.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref("1")), Gate: gate, Times: 1, Status: 429,
		Header: http.Header{"Retry-After": {"1"}}})
	defer remove()
	begun := b.from.Notify(heads)
	tracker := b.planEach(t, "1", "2")
	c := b.consumer(t)
	start(t, c)
	<-begun
	b.purge(t)
	close(gate)
	// Until the worker has published what it has left, its chunk looks lost, too.
	require.Eventually(t, func() bool {
		st, err := tracker.Status(t.Context())
		return err == nil && st.State == run.StateLost && st.Chunks == run.Chunks{Total: 2, Done: 1, Lost: 1}
	}, deadline, often)
	b.mirrored(t, "1")

	for range 2 {
		require.NoError(t, c.lost(t.Context()))
	}
	require.Equal(t, 1, strings.Count(said.String(), "chunks of a run are lost"), said.String())
	require.Contains(t, said.String(), "run="+runID+" lost=1 chunks=2")
}

// TestNothingIsSaidToBeLost of runs that are well, or that go on.
func TestNothingIsSaidToBeLost(t *testing.T) {
	b := embedded(t)
	b.push(t, "1")
	said := b.tell()
	tracker := b.plan(t, b.chunk())
	c := b.consumer(t)
	require.NoError(t, c.lost(t.Context()))
	stop := start(t, c)
	over(t, tracker)
	stop()
	require.NoError(t, c.lost(t.Context()))
	require.Empty(t, said.String())
}

// TestOvertaken: a worker that comes back late does not hide that another one is done.
func TestOvertaken(t *testing.T) {
	b := embedded(t)
	c := b.consumer(t)
	b.plan(t, b.chunk())
	recorded := func() string {
		p, _, err := b.runs.Progress(t.Context(), b.address("000001"))
		require.NoError(t, err)
		return p.State
	}
	late, other := delivery{Consumer: c, address: b.address("000001")}, delivery{Consumer: c, address: b.address("000001")}
	for _, d := range []*delivery{&late, &other, &late} { // the second one first hears of the first
		d.Progress(run.Tally{Total: 1}, 0, 0)
		require.NoError(t, d.store(t.Context()))
		require.Equal(t, run.Running, recorded())
	}
	other.progress.State = run.Done
	require.NoError(t, other.store(t.Context()))
	for range 2 {
		late.Progress(run.Tally{Total: 1}, 0, 0)
		require.NoError(t, late.store(t.Context()))
		require.Equal(t, run.Done, recorded())
	}
	late.progress.State = run.Done
	require.NoError(t, late.store(t.Context()), "the last word is stored")
}

// TestPostponedAndLost: a message that waits for a newer worker is one that can be lost.
func TestPostponedAndLost(t *testing.T) {
	b := embedded(t)
	tracker := b.plan(t, message.Chunk{})
	b.purge(t)
	b.send(t, b.address("000001").Under(subject.Chunk), []byte(`{"version":1000}`))
	c := b.consumer(t)
	c.take(t.Context(), b.receive(t))
	st, err := tracker.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, run.StateSnoozed, st.State)
	require.WithinDuration(t, time.Now().Add(newerRetry), *st.NextDue, newerRetry/2)
	b.purge(t)
	st, err = tracker.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, run.StateLost, st.State)
}
