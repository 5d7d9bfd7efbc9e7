package run

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/subject"
)

// story writes a run as the planner and the workers would.
type story struct {
	t *testing.T
	s *Store
	b *broker.Broker
	r Run
	*Tracker
}

// begin stores the run, and publishes a plan message for each token, an hour from
// now and an hour apart.
func begin(t *testing.T, id string, tokens ...string) *story {
	s, b := open(t)
	now := time.Now().UTC().Truncate(time.Millisecond)
	r := Run{Name: name, ID: id, Kind: KindPlan, Chunks: len(tokens), Started: now, FirstDue: now.Add(time.Hour), Interval: time.Hour}
	require.NoError(t, s.Put(t.Context(), r))
	y := &story{t: t, s: s, b: b, r: r}
	for _, token := range tokens {
		y.publish(subject.Plan, token)
	}
	var err error
	y.Tracker, err = s.Track(t.Context(), name, id)
	require.NoError(t, err)
	return y
}

func (y *story) address(token string) subject.Address {
	return subject.NewAddress(name, y.r.ID, "quay.io", token)
}

func (y *story) publish(root, token string) {
	m := nats.NewMsg(y.address(token).Under(root))
	if root != subject.Chunk {
		m = broker.Scheduled(root, y.address(token), time.Now().Add(24*time.Hour), nil)
	}
	_, err := y.b.Publish(y.t.Context(), m)
	require.NoError(y.t, err)
}

// gone deletes a message, as an acknowledgement or a purge does.
func (y *story) gone(root, token string) {
	require.NoError(y.t, y.b.Stream.Purge(y.t.Context(), jetstream.WithPurgeSubject(y.address(token).Under(root))))
}

// fire replaces a schedule by its chunk, as nats-server does when it is due.
func (y *story) fire(root, token string) {
	m, err := y.b.Stream.GetLastMsgForSubject(y.t.Context(), y.address(token).Under(root))
	require.NoError(y.t, err)
	require.NoError(y.t, y.b.Fire(y.t.Context(), m))
}

func (y *story) record(token string, p Progress) {
	require.NoError(y.t, y.s.Record(y.t.Context(), y.address(token), p))
}

func (y *story) put() { require.NoError(y.t, y.s.Put(y.t.Context(), y.r)) }

func (y *story) now() Status {
	st, err := y.Status(y.t.Context())
	require.NoError(y.t, err)
	return st
}

// becomes requires a state of the run and its chunks.
func (y *story) becomes(state string, chunks Chunks) Status {
	y.t.Helper()
	st := y.now()
	require.Equal(y.t, state, st.State)
	require.Equal(y.t, chunks, st.Chunks)
	return st
}

// TestAllWaitsForARegistry: a run waits for registries if all its messages do.
func TestAllWaitsForARegistry(t *testing.T) {
	y := begin(t, "r1", "1", "2")
	y.r.Published = true
	y.put()
	require.Empty(t, y.now().Away)
	for i, token := range []string{"1", "2"} {
		y.fire(subject.Plan, token)
		y.record(token+"-7", Progress{State: Snoozed, Due: y.r.Started, Away: []string{"quay.io", "target.example.com"}[i]})
		y.publish(subject.Later, token+"-7")
		y.gone(subject.Chunk, token)
	}
	st := y.becomes(StateSnoozed, Chunks{Total: 2, Snoozed: 2})
	require.Equal(t, []string{"quay.io", "target.example.com"}, st.Away)
	y.record("2-7", Progress{State: Snoozed, Due: y.r.Started})
	require.Empty(t, y.now().Away, "the other one waits for a budget")
}

// TestWorkerMissing: a chunk that is due waits for a worker, even if another one is due later.
func TestWorkerMissing(t *testing.T) {
	y := begin(t, "r1", "1", "2")
	require.False(t, y.now().WorkerMissing)
	require.Equal(t, 2, y.now().Unresolved)
	y.fire(subject.Plan, "1")
	st := y.becomes(StateWaiting, Chunks{Total: 2, Waiting: 2})
	require.True(t, st.WorkerMissing)
	require.NotNil(t, st.NextDue)
	y.record("1", Progress{State: Running})
	require.False(t, y.now().WorkerMissing)
	require.Equal(t, 2, y.now().Unresolved)
	y.record("1", Progress{State: Running, Images: Tally{Total: 1}})
	require.Equal(t, 1, y.now().Unresolved)
	y.r.Ended = StateCancelled
	y.put()
	y.fire(subject.Plan, "2")
	require.False(t, y.now().WorkerMissing, "it is dropped")
}

func TestARunFromBeginningToEnd(t *testing.T) {
	y := begin(t, "r1", "1", "2", "3")
	st := y.becomes(StateWaiting, Chunks{Total: 3, Waiting: 3})
	require.False(t, st.Over())
	require.Equal(t, y.r.FirstDue, *st.NextDue)
	require.Equal(t, y.r.Started, st.Started)

	y.r.Published = true
	y.put()
	y.fire(subject.Plan, "1")
	st = y.becomes(StateWaiting, Chunks{Total: 3, Waiting: 3})
	require.Equal(t, y.r.FirstDue.Add(time.Hour), *st.NextDue)
	y.record("1", Progress{State: Running, Images: Tally{Total: 5, Copied: 1}, Pulls: 1, Bytes: 100})
	st = y.becomes(StateRunning, Chunks{Total: 3, Waiting: 2, Running: 1})
	require.Equal(t, Tally{Total: 5, Copied: 1}, st.Images)

	// The chunk is split: two parts, one of them done, one snoozed.
	due := y.r.Started.Add(time.Minute)
	y.publish(subject.Chunk, "1-7p1")
	y.publish(subject.Later, "1-7p2")
	y.record("1-7p2", Progress{State: Snoozed, Due: due})
	y.record("1-7p1", Progress{State: Running})
	y.record("1", Progress{State: Done, Images: Tally{Total: 1, Copied: 1}, Pulls: 1, Bytes: 100})
	y.gone(subject.Chunk, "1")
	st = y.becomes(StateRunning, Chunks{Total: 3, Waiting: 2, Running: 1})
	require.Equal(t, due, *st.NextDue)
	y.record("1-7p1", Progress{State: Done, Images: Tally{Total: 3, Tagged: 1, Unchanged: 1, Skipped: 1}, Pulls: 2, Bytes: 10})
	y.gone(subject.Chunk, "1-7p1")
	y.becomes(StateWaiting, Chunks{Total: 3, Waiting: 2, Snoozed: 1})

	for _, token := range []string{"2", "3"} {
		y.fire(subject.Plan, token)
		y.record(token, Progress{State: Done})
		y.gone(subject.Chunk, token)
	}
	y.becomes(StateSnoozed, Chunks{Total: 3, Snoozed: 1, Done: 2})
	y.fire(subject.Later, "1-7p2")
	y.record("1-7p2", Progress{State: Running})
	st = y.becomes(StateRunning, Chunks{Total: 3, Running: 1, Done: 2})
	require.Nil(t, st.NextDue)
	require.Nil(t, st.Finished)

	finished := y.r.Started.Add(time.Hour)
	y.record("1-7p2", Progress{State: Done, Images: Tally{Total: 2, Failed: 2}, Updated: finished})
	y.gone(subject.Chunk, "1-7p2")
	st = y.now()
	require.True(t, st.Over())
	require.Equal(t, Status{
		Name: name, Run: "r1", State: StateFailed, Chunks: Chunks{Total: 3, Done: 3},
		Images: Tally{Total: 6, Copied: 1, Tagged: 1, Unchanged: 1, Skipped: 1, Failed: 2}, Pulls: 3, Bytes: 110,
		Started: y.r.Started, Finished: &finished, Registries: []Registry{}, UnderWay: []Copy{},
	}, st)
}

// TestUnderWay: copies are shown while their worker records them.
func TestUnderWay(t *testing.T) {
	y := begin(t, "r1", "1", "2", "3", "4")
	for _, token := range []string{"1", "2", "3"} {
		y.fire(subject.Plan, token)
	}
	now := time.Now().UTC().Truncate(time.Second)
	copied := func(n int) Copy {
		return Copy{Image: fmt.Sprint("quay.io/a:", n), Destination: fmt.Sprint("r.example/a:", n), Worker: "w", Bytes: 5, Rate: 1, Since: now.Add(-time.Duration(n) * time.Minute)}
	}
	y.record("1", Progress{State: Running, Updated: now, UnderWay: []Copy{copied(1), copied(3)}})
	y.record("2", Progress{State: Running, Updated: now, UnderWay: []Copy{copied(2)}})
	y.record("3", Progress{State: Running, Updated: now.Add(-2 * copiesKnownFor), UnderWay: []Copy{copied(4)}})
	y.record("4", Progress{State: Running, Updated: now, UnderWay: []Copy{copied(5)}}) // it is back in its schedule
	st := y.becomes(StateRunning, Chunks{Total: 4, Waiting: 1, Running: 3})
	require.Equal(t, []Copy{copied(3), copied(2), copied(1)}, st.UnderWay)

	y.record("1", Progress{State: Done, Updated: now})
	y.gone(subject.Chunk, "1")
	st = y.becomes(StateRunning, Chunks{Total: 4, Waiting: 1, Running: 2, Done: 1})
	require.Equal(t, []Copy{copied(2)}, st.UnderWay)
}

func TestEndsOfARun(t *testing.T) {
	long := time.Now().Add(-time.Hour).UTC()
	for want, end := range map[string]func(*story){
		StateDone:       func(y *story) { y.record("1", Progress{State: Done, Images: Tally{Total: 1, Copied: 1}}) },
		StateFailed:     func(y *story) { y.record("1", Progress{State: Done, Images: Tally{Total: 1, Failed: 1}}) },
		StateCancelled:  func(y *story) { y.r.Ended = StateCancelled },
		StateSuperseded: func(y *story) { y.r.Ended = StateSuperseded },
		StateLost:       func(*story) {},                          // without a recorded reason
		StateWaiting:    func(y *story) { y.r.Published = false }, // about to be published
	} {
		t.Run(want, func(t *testing.T) {
			y := begin(t, "r1", "1")
			y.r.Published = true
			end(y)
			y.put()
			y.gone(subject.Plan, "1")
			st := y.now()
			require.Equal(t, want, st.State)
			require.Equal(t, want != StateWaiting, st.Over())
			if want == StateWaiting {
				y.r.Started = long
				y.put()
				require.Equal(t, StateLost, y.now().State, "its planner did not live to publish it all")
			}
		})
	}
}

func TestEmptyPlan(t *testing.T) {
	y := begin(t, "r1")
	y.r.Published = true
	y.put()
	st := y.now()
	require.Equal(t, StateDone, st.State)
	require.Equal(t, y.r.Started, *st.Finished)
}

// TestEndedBeforeItsChunks: chunks that no worker has are dropped, at once if they were
// purged, otherwise by the worker that receives them. A worker may finish its chunk. Then
// the run has ended.
func TestEndedBeforeItsChunks(t *testing.T) {
	for _, state := range []string{StateCancelled, StateSuperseded} {
		t.Run(state, func(t *testing.T) {
			y := begin(t, "r1", "1", "2", "3", "4", "5")
			for _, token := range []string{"1", "2", "3", "4"} {
				y.fire(subject.Plan, token)
			}
			y.record("1", Progress{State: Done, Images: Tally{Total: 1, Copied: 1}})
			y.gone(subject.Chunk, "1")
			y.record("2", Progress{State: Running, Images: Tally{Total: 3}})
			y.publish(subject.Later, "3-9")
			y.record("3-9", Progress{State: Snoozed, Images: Tally{Total: 2}, Due: time.Now().Add(time.Hour)})
			y.record("3", Progress{State: Done, Images: Tally{Total: 1, Copied: 1}})
			y.gone(subject.Chunk, "3")
			y.becomes(StateRunning, Chunks{Total: 5, Waiting: 2, Running: 1, Snoozed: 1, Done: 1})

			require.NoError(t, y.s.End(t.Context(), name, "r1", state))
			require.NoError(t, y.s.End(t.Context(), name, "r1", "another"), "the first word counts")
			st := y.becomes(state, Chunks{Total: 5, Running: 1, Done: 1, Dropped: 3})
			require.True(t, st.Over())
			require.Nil(t, st.Finished)
			require.Nil(t, st.NextDue)
			y.gone(subject.Plan, "5") // without a record of it
			y.record("4", Progress{State: Dropped, Images: Tally{Total: 4, Dropped: 4}})
			y.gone(subject.Chunk, "4")
			y.record("3-9", Progress{State: Dropped, Images: Tally{Total: 2, Dropped: 2}})
			y.gone(subject.Later, "3-9")
			y.becomes(state, Chunks{Total: 5, Running: 1, Done: 1, Dropped: 3})
			y.record("2", Progress{State: Done, Images: Tally{Total: 3, Copied: 3}})
			y.gone(subject.Chunk, "2")

			st = y.becomes(state, Chunks{Total: 5, Done: 2, Dropped: 3})
			require.Equal(t, Tally{Total: 11, Copied: 5, Dropped: 6}, st.Images)
			require.WithinDuration(t, time.Now(), *st.Finished, time.Minute)
		})
	}
}

// TestOnlyItsOwn: messages of other runs or mirror names are not counted.
func TestOnlyItsOwn(t *testing.T) {
	y := begin(t, "r1", "1")
	for _, subj := range []string{
		subject.NewAddress(name, "r10", "quay.io", "9").Under(subject.Chunk),
		subject.NewAddress("other", "r1", "quay.io", "9").Under(subject.Chunk),
		subject.Failure(name, "r1", "repository", 2),
	} {
		_, err := y.b.Publish(t.Context(), nats.NewMsg(subj))
		require.NoError(t, err)
	}
	require.NoError(t, y.s.Record(t.Context(), subject.NewAddress(name, "r10", "quay.io", "9"), Progress{State: Done, Pulls: 1}))
	require.NoError(t, y.s.Record(t.Context(), subject.NewAddress(name, "r1", "docker.io", "1"), Progress{State: Done, Pulls: 2}))
	st := y.becomes(StateWaiting, Chunks{Total: 1, Waiting: 1, Done: 1})
	require.Equal(t, 2, st.Pulls)
}

func TestTrackNeedsARun(t *testing.T) {
	s, _ := open(t)
	_, err := s.Track(t.Context(), name, "none")
	require.ErrorIs(t, err, ErrNotFound)
}

func TestStatusKeys(t *testing.T) {
	data, err := json.Marshal(Status{Registries: []Registry{{}}, UnderWay: []Copy{{}}})
	require.NoError(t, err)
	require.Equal(t, strings.Join(strings.Fields(`{"name":"","run":"","state":"",
		"chunks":{"total":0,"waiting":0,"running":0,"snoozed":0,"done":0,"dropped":0,"lost":0},
		"images":{"total":0,"copied":0,"tagged":0,"unchanged":0,"skipped":0,"vanished":0,"waiting":0,"kept":0,"failed":0,"dropped":0},
		"pulls":0,"bytes":0,"started":"0001-01-01T00:00:00Z","finished":null,"next_due":null,
		"estimated_done":null,"estimated_at_least":false,
		"registries":[{"registry":"","limit":0,"window":"","spent":0,"free":null,"closed_until":null,"reason":"","next_slot":null,
			"to_pull":0,"to_pull_at_least":false,"estimated_done":null}],
		"under_way":[{"image":"","destination":"","worker":"","bytes":0,"rate":0,"since":"0001-01-01T00:00:00Z"}],
		"failures":{"images":0,"left_list":0,"unreadable":0}}`), ""), string(data))
}

func TestALongRun(t *testing.T) {
	const chunks = 1200 // more than one request for a batch brings
	y := begin(t, "r1")
	y.r.Chunks, y.r.Published = chunks, true
	for i := range chunks {
		y.record(fmt.Sprint(i+1), Progress{State: Done, Images: Tally{Total: 2, Copied: 2}})
	}
	y.put()
	st := y.now()
	require.Equal(t, StateDone, st.State)
	require.Equal(t, 2*chunks, st.Images.Copied)
}
