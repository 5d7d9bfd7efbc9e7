package consume

import (
	"bytes"
	"encoding/json"
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

// TestPoison: five deliveries without an outcome, and the sixth records all there is
// in the message before anything is tried.
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

// TestGarbage is recorded at once with its bytes, and can be delivered again.
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

// TestLargeGarbage does not hold a worker up: a record must fit into a message.
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

// TestNewerVersion: it waits for a worker that understands it, as it is; after a day
// it is recorded; and when it is republished to one that does, it is mirrored.
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
		c.take(t.Context(), b.receive(t))
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
	c.take(t.Context(), b.receive(t))
	require.Empty(t, b.subjects(t, subject.OfRun(name, runID)))
	records := b.failures(t)
	require.Len(t, records, 1)
	require.Equal(t, data, records[0].Message)
	require.Contains(t, records[0].Images[0].Reason, "24h")

	_, err = failure.NewStore(b.Broker, slog.New(slog.DiscardHandler)).Republish(t.Context(), name, "20260103-000000-000-0000", func(failure.Record) bool { return true })
	require.NoError(t, err)
	require.Equal(t, data, b.receive(t).Data())
}
