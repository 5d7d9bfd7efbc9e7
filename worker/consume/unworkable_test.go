package consume

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/metrics"
)

// TestPoison: after five deliveries without an outcome, the sixth records all images of the
// message and tries none.
func TestPoison(t *testing.T) {
	b := embedded(t)
	b.push(t, "1", "2")
	c := b.chunk(message.Image{Tag: reference.MustTag("1")}, message.Image{Tag: reference.MustTag("2"), Attempts: 2})
	unresolved := c.Repositories[0]
	unresolved.Source, unresolved.Images = reference.MustRepository(b.from.Host()+"/other"), nil
	c.Repositories = append(c.Repositories, unresolved)
	tracker := b.plan(t, c)
	for range maxDeliveries {
		require.NoError(t, b.receive(t).Nak())
	}
	worker := b.consumer(t)
	stop := start(t, worker)
	st := over(t, tracker)
	stop()
	require.Equal(t, 1, counted(t, worker, countedChunks, metrics.ChunkUnworkable))
	require.Equal(t, 3, counted(t, worker, countedImages, "failed"))
	require.Equal(t, run.Tally{Total: 3, Failed: 3}, st.Images)
	require.Empty(t, b.from.Requests())
	records := b.failures(t)
	require.Len(t, records, 2)
	for _, r := range records {
		for _, i := range r.Images {
			require.Contains(t, i.Reason, "5 deliveries without an outcome")
		}
	}
}

// TestGarbage: an unreadable message is recorded at once with its bytes, and can be
// republished.
func TestGarbage(t *testing.T) {
	b := embedded(t)
	other := b.chunk()
	other.Name = "other"
	foreign, err := other.Encode()
	require.NoError(t, err)
	hostileTag, err := b.chunk(message.Image{Tag: reference.MustTag("HERE")}).Encode()
	require.NoError(t, err)
	hostileTag = bytes.Replace(hostileTag, []byte("HERE"), []byte("../../../victim/app/manifests/latest"), 1)
	hostileDestination, err := b.chunk().Encode()
	require.NoError(t, err)
	hostileDestination = bytes.Replace(hostileDestination, []byte(b.to.Host()+"/"), []byte(b.to.Host()+"/../"), 1)
	garbage := map[string][]byte{
		subject.NewAddress(name, runID, "quay.io", "000003").Under(subject.Chunk): hostileTag,
		subject.NewAddress(name, runID, "quay.io", "000004").Under(subject.Chunk): hostileDestination,
		"mirror.chunk.x": []byte("not ours"),
		subject.NewAddress(name, runID, "quay.io", "000001").Under(subject.Chunk): []byte(`{"version":1`),
		subject.NewAddress(name, runID, "quay.io", "000002").Under(subject.Chunk): foreign,
		"mirror.chunk.No_Name.r.x.1":             {},
		"mirror.chunk." + name + ".too.many.a.b": []byte("x"),
	}
	for subj, data := range garbage {
		b.send(t, subj, data)
	}
	start(t, b.consumer(t))
	require.Eventually(t, func() bool { return len(b.subjects(t, subject.Chunk+".>")) == 0 }, deadline, often)
	records := b.failures(t)
	require.Len(t, records, len(garbage))
	for _, r := range records {
		found := false
		for subj, data := range garbage {
			if bytes.Contains([]byte(r.Repository), []byte(" on "+subj)) {
				found = true
				require.True(t, bytes.Equal(data, r.Message))
			}
		}
		require.True(t, found, r.Repository)
		require.Len(t, r.Images, 1)
		require.NotEmpty(t, r.Images[0].Reason)
	}
}

// TestLargeGarbage: an unreadable message that is too large for a record does not block a
// worker.
func TestLargeGarbage(t *testing.T) {
	b := embedded(t)
	b.send(t, "mirror.chunk.x", bytes.Repeat([]byte("x"), 1<<20-100))
	start(t, b.consumer(t))
	require.Eventually(t, func() bool { return len(b.subjects(t, subject.Chunk+".>")) == 0 }, deadline, often)
	records := b.failures(t)
	require.Len(t, records, 1)
	require.Len(t, records[0].Message, message.MaxSize)
	require.Contains(t, records[0].Images[0].Reason, "only the first")
}

// TestNewerVersion: a message of a newer version waits unchanged for a newer worker, and is
// recorded after a day. When it is republished to a newer worker, it is mirrored.
func TestNewerVersion(t *testing.T) {
	b := embedded(t)
	b.push(t, "1")
	var newer map[string]any
	data, err := b.chunk().Encode()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &newer))
	newer["version"] = message.Version + 1
	data, err = json.Marshal(newer)
	require.NoError(t, err)
	m := nats.NewMsg(b.address("000001").Under(subject.Chunk))
	m.Data = data
	m.Header.Set("Mirror-Unknown", "kept")
	_, err = b.Publish(t.Context(), m)
	require.NoError(t, err)

	c := b.consumer(t)
	began := time.Now()
	now := began
	c.now = func() time.Time { return now }
	for _, later := range []time.Duration{0, time.Hour, 23 * time.Hour} {
		now = began.Add(later)
		c.take(t.Context(), b.receive(t), func() {})
		waiting := b.subjects(t, subject.Later+".>")
		require.Len(t, waiting, 1)
		stored, err := b.Stream.GetLastMsgForSubject(t.Context(), waiting[0])
		require.NoError(t, err)
		require.Equal(t, data, stored.Data)
		require.Equal(t, "kept", stored.Header.Get("Mirror-Unknown"))
		require.Equal(t, began.UTC().Format(time.RFC3339), stored.Header.Get(headerFirstSeen))
		require.Empty(t, b.failures(t))
		require.NoError(t, c.broker.Fire(t.Context(), stored)) // a minute has passed
	}
	now = began.Add(newerLimit + time.Minute)
	c.take(t.Context(), b.receive(t), func() {})
	require.Empty(t, b.subjects(t, subject.OfRun(name, runID)))
	records := b.failures(t)
	require.Len(t, records, 1)
	require.Equal(t, data, records[0].Message)
	require.Contains(t, records[0].Images[0].Reason, "24h")

	_, err = failure.NewStore(b.Broker, slog.New(slog.DiscardHandler)).Republish(t.Context(), name, "20260103-000000-000-0000", func(failure.Record, failure.Image) bool { return true })
	require.NoError(t, err)
	require.Equal(t, data, b.receive(t).Data())
}

// TestChunkOfAnEndedRun: a chunk is dropped when it is received, whether this is its first
// delivery, a later one after a part was done, or a remainder.
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
			for range maxDeliveries + 1 { // more than a poison message has
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

// TestChunkUnderWayMayFinish: a running chunk goes on after its run was cancelled, and its
// remainder is dropped.
func TestChunkUnderWayMayFinish(t *testing.T) {
	b := embedded(t)
	_, tracker, stop := b.copying(t, "1", "2", "3")
	require.NoError(t, b.runs.End(t.Context(), name, runID, run.StateCancelled))
	stop() // one image is being copied, two have not begun
	require.Len(t, b.subjects(t, subject.OfRun(name, runID)), 1)

	start(t, b.consumer(t))
	require.Eventually(t, func() bool { return len(b.subjects(t, subject.OfRun(name, runID))) == 0 }, deadline, often)
	st := over(t, tracker)
	require.Equal(t, run.StateCancelled, st.State)
	require.Equal(t, run.Tally{Total: 3, Copied: 1, Dropped: 2}, st.Images)
	require.Equal(t, run.Chunks{Total: 1, Dropped: 1}, st.Chunks)
	require.Equal(t, 1, b.from.Pulls())
}

// TestRepublishThatIsCancelled: its images become failures again. A newer plan does not end
// a republish, nor does the end of the run from which an unreadable message was republished
// unchanged.
func TestRepublishThatIsCancelled(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		state string
		asIs  bool // the message does not say that it was republished
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

// TestRunThatIsForgotten: if the bucket of runs was lost, or an entry is not a run, the
// chunk is worked off.
func TestRunThatIsForgotten(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]func(*testing.T, *harness){
		"lost":    func(t *testing.T, b *harness) { require.NoError(t, b.JS.DeleteKeyValue(t.Context(), run.Bucket)) },
		"garbage": func(t *testing.T, b *harness) { b.send(t, "$KV."+run.Bucket+"."+name+"."+runID, []byte("\x1b[31m")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := embedded(t)
			b.push(t, "1")
			b.plan(t, b.chunk())
			require.NoError(t, b.runs.End(t.Context(), "default", runID, run.StateCancelled))
			c := b.consumer(t)
			forget(t, b)
			c.take(t.Context(), b.receive(t), func() {})
			b.mirrored(t, "1")
			require.Empty(t, b.subjects(t, subject.Chunk+".>"))
		})
	}
}
