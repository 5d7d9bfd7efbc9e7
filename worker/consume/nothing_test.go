package consume

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestNothingNew: a chunk in which nothing is new costs the broker as much with many repositories
// as with one.
func TestNothingNew(t *testing.T) {
	cost := func(repositories int) (requests, writes int) {
		b := embedded(t)
		c := b.consumer(t)
		var planned message.Chunk
		for n := range repositories {
			one := b.chunk()
			path := fmt.Sprintf("%s%d", repository, n)
			_, err := b.from.PushImage(path, "1", registrytest.Image{Version: "1"})
			require.NoError(t, err)
			one.Repositories[0].Source = reference.MustRepository(b.from.Host() + "/" + path)
			one.Repositories[0].Destination = reference.MustRepository(b.to.Host() + "/mirror/" + path)
			one.Repositories = append(planned.Repositories, one.Repositories...)
			planned = one
		}
		stored := func() (n int) {
			streams := b.JS.ListStreams(t.Context())
			for s := range streams.Info() {
				n += int(s.State.LastSeq)
			}
			require.NoError(t, streams.Err())
			return n
		}
		for night := range 3 {
			tracker := b.plan(t, planned)
			m := b.receive(t)
			sent, before := b.Conn.Stats().OutMsgs, stored()
			c.take(t.Context(), m, func() {})
			requests, writes = int(b.Conn.Stats().OutMsgs-sent), stored()-before
			want := run.Tally{Total: repositories, Unchanged: repositories}
			if night == 0 {
				want = run.Tally{Total: repositories, Copied: repositories}
			}
			require.Equal(t, want, over(t, tracker).Images)
		}
		seen, err := c.catalog.List(t.Context(), name)
		require.NoError(t, err)
		require.Len(t, seen, repositories)
		for _, r := range seen {
			require.WithinDuration(t, time.Now(), r.Checked, time.Minute)
		}
		return requests, writes
	}
	few, _ := cost(1)
	const repositories = 16 // more than the number of progress reports on a busy machine
	many, writes := cost(repositories)
	require.Less(t, many-few, repositories, "%d requests for one, %d for many", few, many)
	require.Less(t, writes, repositories)
}

// TestOlderRuns: the digests of a run are noted only if an older run has messages, which may leave
// some of them.
func TestOlderRuns(t *testing.T) {
	b := embedded(t)
	c := b.consumer(t)
	notes := func() uint64 {
		stream, err := b.JS.Stream(t.Context(), "KV_"+resolvedBucket)
		require.NoError(t, err)
		return stream.CachedInfo().State.LastSeq
	}
	resolve := func(id string) {
		t.Helper()
		of := b.chunk()
		of.Run = id
		require.NoError(t, c.worker.Notes.Resolved(t.Context(), of, of.Repositories[0]))
	}
	publish := func(mirror, id string) {
		t.Helper()
		b.send(t, subject.NewAddress(mirror, id, b.from.Host(), "000001").Under(subject.Chunk), nil)
	}
	const older, newer, newest = "20260101-000000-000-0000", "20260102-000000-000-0000", "20260103-000000-000-0000"
	publish("other", older)
	publish(name, newer)
	publish(name, newest)
	b.send(t, subject.Failure(name, b.from.Host(), repository, 1), nil)
	resolve(newer)
	require.Zero(t, notes())
	resolve(newest)
	require.EqualValues(t, 1, notes())
	resolve(newer)
	require.EqualValues(t, 1, notes(), "the newer one stays")
}

// TestDrained: the consumer reports when it has nothing left to do, and not before.
func TestDrained(t *testing.T) {
	b := embedded(t)
	c := b.consumer(t)
	for n := range 2 {
		b.send(t, subject.NewAddress(name, runID, b.from.Host(), fmt.Sprintf("00000%d", n)).Under(subject.Chunk), nil)
	}
	first, err := b.Consumer.Next(jetstream.FetchMaxWait(deadline))
	require.NoError(t, err)
	second, err := b.Consumer.Next(jetstream.FetchMaxWait(deadline))
	require.NoError(t, err)
	drained := func() bool {
		select {
		case <-c.Drained():
			return true
		default:
			return false
		}
	}
	c.load.begin(first)()
	require.False(t, drained(), "another message waits")
	end, endAgain := c.load.begin(second), c.load.begin(second)
	end()
	require.False(t, drained(), "one is worked off")
	endAgain()
	require.True(t, drained())
	require.False(t, drained())
}
