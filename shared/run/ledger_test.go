package run

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/subject"
)

// requireStatus requires the same status of the newest run from the ledger and from its tracker.
func (y *story) requireStatus(l *Ledger, state string, final bool) Status {
	y.t.Helper()
	runs, err := l.List(y.t.Context())
	require.NoError(y.t, err)
	require.NotEmpty(y.t, runs[name])
	require.Equal(y.t, y.r, runs[name][0].Run)
	st, last, err := l.Status(y.t.Context(), runs[name][0])
	require.NoError(y.t, err)
	require.Equal(y.t, state, st.State)
	require.Equal(y.t, final, last)
	require.Eventually(y.t, func() bool { // the tracker reads it a little later
		now := y.now()
		return now.Images == st.Images && now.State == st.State
	}, patience, 5*time.Millisecond, "the tracker says otherwise: %+v", st)
	require.Equal(y.t, y.now().Pulls, st.Pulls)
	require.Equal(y.t, y.now().Bytes, st.Bytes)
	require.Equal(y.t, y.now().Finished, st.Finished)
	require.Equal(y.t, y.r.ID, st.Run)
	require.Equal(y.t, y.r.Started, st.Started)
	return st
}

func TestLedger(t *testing.T) {
	y := begin(t, "r1", "1", "2")
	l := y.s.Ledger()
	y.r.Published = true
	y.put()
	y.requireStatus(l, StateWaiting, false)
	y.fire(subject.Plan, "1")
	y.record("1", Progress{State: Running, Images: Tally{Total: 5, Copied: 1}, Pulls: 1, Bytes: 100})
	y.requireStatus(l, StateRunning, false)
	y.publish(subject.Later, "1-7")
	y.record("1-7", Progress{State: Snoozed, Images: Tally{Total: 4}})
	y.record("1", Progress{State: Done, Images: Tally{Total: 1, Copied: 1}, Pulls: 1, Bytes: 100, Updated: y.r.Started.Add(time.Minute)})
	y.gone(subject.Chunk, "1")
	y.requireStatus(l, StateWaiting, false)
	y.record("2", Progress{State: Done, Images: Tally{Total: 1, Tagged: 1}})
	y.gone(subject.Plan, "2")
	st := y.requireStatus(l, StateSnoozed, false)
	require.Equal(t, Tally{Total: 6, Copied: 1, Tagged: 1}, st.Images)

	finished := y.r.Started.Add(time.Hour)
	y.record("1-7", Progress{State: Done, Images: Tally{Total: 4, Unchanged: 4}, Updated: finished})
	y.gone(subject.Later, "1-7")
	st = y.requireStatus(l, StateDone, true)
	require.Equal(t, finished, *st.Finished)
	require.NotEmpty(t, l.before, "it was still running the last time")
	y.requireStatus(y.s.Ledger(), StateDone, true) // a ledger that has not seen the run
	y.requireStatus(l, StateDone, true)
	require.Empty(t, l.before)
	require.Empty(t, l.progress)
}

// TestLedgerOfAnEndedRun: a cancelled run is over, but its status is not final while a worker has
// a chunk of it.
func TestLedgerOfAnEndedRun(t *testing.T) {
	y := begin(t, "r1", "1", "2")
	l := y.s.Ledger()
	y.fire(subject.Plan, "1")
	y.gone(subject.Plan, "2")
	y.r.Ended, y.r.Published = StateCancelled, true
	y.put()
	y.requireStatus(l, StateCancelled, false)
	y.record("1", Progress{State: Done, Images: Tally{Total: 2, Copied: 1, Failed: 1}, Updated: y.r.Started})
	y.gone(subject.Chunk, "1")
	y.requireStatus(l, StateCancelled, true)
}

// TestLedgerLeavesOutWhatWasTakenBack: a plan that could not be published is not a run of its
// mirror name.
func TestLedgerLeavesOutWhatWasTakenBack(t *testing.T) {
	y := begin(t, "r1", "1")
	l := y.s.Ledger()
	y.r.Ended = StateCancelled
	y.put()
	runs, err := l.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, runs)
}

// TestLedgerOfManyRuns: the runs of all names are listed, the newest first, without those that are too old.
func TestLedgerOfManyRuns(t *testing.T) {
	s, _ := open(t)
	now := time.Now().UTC()
	for i, age := range []time.Duration{3 * time.Hour, time.Hour, 2 * time.Hour, Keep + time.Hour} {
		r := Run{Name: name, ID: NewID(now.Add(-age)), Started: now.Add(-age), Chunks: i}
		require.NoError(t, s.Put(t.Context(), r))
		r.Name = "other"
		require.NoError(t, s.Put(t.Context(), r))
	}
	l := s.Ledger()
	for range 2 {
		runs, err := l.List(t.Context())
		require.NoError(t, err)
		require.Len(t, runs, 2)
		require.Len(t, runs["other"], 3)
		var order []int
		for _, e := range runs[name] {
			order = append(order, e.Chunks)
		}
		require.Equal(t, []int{1, 2, 0}, order)
	}
}

// TestLedgerIsCheap: the cost of a further look at a run does not depend on the number of its chunks.
func TestLedgerIsCheap(t *testing.T) {
	const chunks = 1100
	s, b := open(t)
	now := time.Now().UTC()
	r := Run{Name: name, ID: NewID(now), Kind: KindPlan, Chunks: chunks, Started: now, Published: true}
	require.NoError(t, s.Put(t.Context(), r))
	var msgs []*nats.Msg
	for i := range chunks {
		a := subject.NewAddress(name, r.ID, "quay.io", fmt.Sprint(i+1))
		msgs = append(msgs, broker.Scheduled(subject.Later, a, now.Add(time.Hour), nil))
		require.NoError(t, s.Record(t.Context(), a, Progress{State: Snoozed, Images: Tally{Total: 2}}))
	}
	_, err := b.PublishAll(t.Context(), msgs)
	require.NoError(t, err)
	l := s.Ledger()
	look := func() {
		t.Helper()
		runs, err := l.List(t.Context())
		require.NoError(t, err)
		st, _, err := l.Status(t.Context(), runs[name][0])
		require.NoError(t, err)
		require.Equal(t, Tally{Total: 2 * chunks}, st.Images)
	}
	look()
	before := b.Conn.Stats()
	look()
	after := b.Conn.Stats()
	require.LessOrEqual(t, after.OutMsgs-before.OutMsgs, uint64(4), "requests")
	require.Less(t, after.InMsgs-before.InMsgs, uint64(10), "answers")
	require.Less(t, after.InBytes-before.InBytes, uint64(8<<10), "bytes")
}

// TestLedgerOfANewBucket: if the bucket was deleted and created again, the ledger lists the runs of the
// new one.
func TestLedgerOfANewBucket(t *testing.T) {
	y := begin(t, "r1", "1")
	l := y.s.Ledger()
	y.put()
	runs, err := l.List(t.Context())
	require.NoError(t, err)
	require.Len(t, runs[name], 1)
	require.NoError(t, y.b.JS.DeleteStream(t.Context(), stream))
	require.NoError(t, broker.AwaitDeletion(t.Context()))
	y.s, err = Open(t.Context(), y.b)
	require.NoError(t, err)
	y.r.ID = "r2"
	y.put()
	l.read.Compared = time.Now().Add(-time.Hour)
	runs, err = l.List(t.Context())
	require.NoError(t, err)
	require.Len(t, runs[name], 1)
	require.Equal(t, "r2", runs[name][0].ID)
}
