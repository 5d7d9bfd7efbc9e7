package consume

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/metrics"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestChunkOfAnEndedRun is dropped when it is received: a first delivery, a later one of
// which a worker had done a part, and a remainder.
func TestChunkOfAnEndedRun(t *testing.T) {
	for _, state := range []string{run.StateCancelled, run.StateSuperseded} {
		t.Run(state, func(t *testing.T) {
			b := embedded(t)
			b.push(t, "1", "2", "3")
			two := b.chunk(message.Image{Tag: reference.MustTag("1")}, message.Image{Tag: reference.MustTag("2")}, message.Image{Tag: reference.MustTag("3")})
			two.Repositories = append(two.Repositories, b.chunk().Repositories...)
			tracker := b.plan(t, two)
			require.NoError(t, b.runs.Record(t.Context(), b.address("000001"), run.Progress{State: run.Running,
				Images: run.Tally{Total: 9, Copied: 5, Failed: 1}, Pulls: 6, Bytes: 7}))
			for i := range 2 {
				data, err := b.chunk(message.Image{Tag: reference.MustTag("1")}).Encode()
				require.NoError(t, err)
				b.send(t, b.address(fmt.Sprintf("00000%d-9", i+1)).Under(subject.Chunk), data)
			}
			for range maxDeliveries + 1 { // poison, but for the run
				require.NoError(t, b.receive(t).Nak())
			}
			require.NoError(t, b.runs.End(t.Context(), name, runID, state))
			b.send(t, b.address("000003").Under(subject.Chunk), []byte(`{"version":99}`))

			c := b.consumer(t)
			stop := start(t, c)
			require.Eventually(t, func() bool { return len(b.subjects(t, subject.OfRun(name, runID))) == 0 }, deadline, often)
			stop()
			st := over(t, tracker)
			require.Equal(t, state, st.State)
			require.Equal(t, run.Tally{Total: 11, Copied: 5, Failed: 1, Dropped: 5}, st.Images)
			require.Equal(t, 6, st.Pulls)
			require.NotNil(t, st.Finished)
			require.Empty(t, b.from.Requests())
			require.Empty(t, b.failures(t))
			require.Equal(t, 4, counted(t, c, countedChunks, metrics.ChunkDropped))
			require.Equal(t, 5, counted(t, c, countedImages, "dropped"))
		})
	}
}

// TestChunkUnderWayMayFinish: what it leaves when its run has been cancelled is dropped.
func TestChunkUnderWayMayFinish(t *testing.T) {
	b := embedded(t)
	b.push(t, "1", "2", "3")
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
	require.NoError(t, b.runs.End(t.Context(), name, runID, run.StateCancelled))
	cancel() // with one image under way and two to do
	close(gate)
	require.NoError(t, <-ended)
	require.Len(t, b.subjects(t, subject.OfRun(name, runID)), 1)

	start(t, b.consumer(t))
	require.Eventually(t, func() bool { return len(b.subjects(t, subject.OfRun(name, runID))) == 0 }, deadline, often)
	st := over(t, tracker)
	require.Equal(t, run.StateCancelled, st.State)
	require.Equal(t, run.Tally{Total: 3, Copied: 1, Dropped: 2}, st.Images)
	require.Equal(t, run.Chunks{Total: 1, Dropped: 1}, st.Chunks)
	require.Equal(t, 1, b.from.Pulls())
}

// TestRepublishThatIsCancelled: its images are failures again. A newer plan ends none.
// Neither does the end of the run that a message has come from that is republished as it
// was.
func TestRepublishThatIsCancelled(t *testing.T) {
	for name, c := range map[string]struct {
		state string
		asIs  bool // the message says nothing of the republish
		want  int  // failures
	}{
		"cancelled":           {run.StateCancelled, false, 2},
		"superseded":          {run.StateSuperseded, false, 0},
		"as it was":           {run.StateCancelled, true, 2},
		"as it was, and old":  {"", true, 0},
		"as it was, and kept": {run.StateSuperseded, true, 0},
	} {
		t.Run(name, func(t *testing.T) { republishIsEnded(t, c.state, c.asIs, c.want) })
	}
}

func republishIsEnded(t *testing.T, state string, asIs bool, want int) {
	b := embedded(t)
	b.push(t, "1", "2")
	c := b.chunk(message.Image{Tag: reference.MustTag("1")})
	c.Republished = !asIs
	itself := b.chunk().Repositories[0]
	itself.Tag = reference.MustTag("2")
	c.Repositories = append(c.Repositories, itself)
	b.plan(t, c)
	_, err := b.runs.Update(t.Context(), name, runID, func(r *run.Run) { r.Kind, r.Ended = run.KindRepublish, state })
	require.NoError(t, err)
	if asIs {
		old := run.Run{Name: name, ID: "20251231-000000-000-0000", Kind: run.KindPlan, Ended: run.StateSuperseded}
		require.NoError(t, b.runs.Put(t.Context(), old))
		c.Run = old.ID
		data, err := c.Encode()
		require.NoError(t, err)
		require.NoError(t, b.Stream.Purge(t.Context()))
		b.send(t, b.address("r000001").Under(subject.Chunk), data)
	}
	start(t, b.consumer(t))
	require.Eventually(t, func() bool { return len(b.subjects(t, subject.OfRun(name, runID))) == 0 }, deadline, often)
	var images []string
	for _, r := range b.failures(t) {
		for _, i := range r.Images {
			require.Equal(t, "cancelled before it was tried again", i.Reason)
			images = append(images, i.Source)
		}
	}
	require.Len(t, images, want)
	if want == 0 {
		b.mirrored(t, "1", "2")
	} else {
		require.Empty(t, b.from.Requests())
	}
}

// TestRunThatIsForgotten: where the bucket is lost, or what is in it is no run, the work
// is done.
func TestRunThatIsForgotten(t *testing.T) {
	for name, forget := range map[string]func(*testing.T, *bench){
		"lost":    func(t *testing.T, b *bench) { require.NoError(t, b.JS.DeleteKeyValue(t.Context(), run.Bucket)) },
		"garbage": func(t *testing.T, b *bench) { b.send(t, "$KV."+run.Bucket+"."+name+"."+runID, []byte("\x1b[31m")) },
	} {
		t.Run(name, func(t *testing.T) {
			b := embedded(t)
			b.push(t, "1")
			b.plan(t, b.chunk())
			require.NoError(t, b.runs.End(t.Context(), "default", runID, run.StateCancelled))
			c := b.consumer(t)
			forget(t, b)
			c.take(t.Context(), b.receive(t))
			b.mirrored(t, "1")
			require.Empty(t, b.subjects(t, subject.Chunk+".>"))
		})
	}
}
