package prune_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/worker/prune"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

func openStore(t *testing.T, b *broker.Broker) *prune.Store {
	t.Helper()
	store, err := prune.OpenStore(t.Context(), b)
	require.NoError(t, err)
	return store
}

// take takes the lease of the mirror name "default", which must be free.
func take(t *testing.T, store *prune.Store, plan, process string) *prune.Lease {
	t.Helper()
	lease, err := store.Take(t.Context(), "default", prune.Holder{Plan: plan, Destination: "registry.example.com/mirror", By: "me", Process: process}, func(h prune.Holder) {
		t.Errorf("%+v has the lease", h)
	})
	require.NoError(t, err)
	return lease
}

// TestLease: one process at a time carries out plans of a mirror name. The next process continues
// from its recorded progress.
func TestLease(t *testing.T) {
	store := openStore(t, brokertest.Embedded(t))
	lease := take(t, store, "plan", "1")
	waits, stop := context.WithCancel(t.Context())
	_, err := store.Take(waits, "default", prune.Holder{Plan: "other", Process: "2"}, func(h prune.Holder) {
		require.Equal(t, "plan", h.Plan)
		stop()
	})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, lease.Finish(t.Context(), 9, prune.Outcome{Deleted: 1}))
	require.NoError(t, lease.Finish(t.Context(), 9, prune.Outcome{Deleted: 1}), "what is finished does not count twice")
	require.NoError(t, lease.Release(t.Context(), nil))
	second := take(t, store, "plan", "2")
	require.True(t, second.Record.Done.Has(9))
	require.Equal(t, 1, second.Record.Done.Len())
	require.ErrorIs(t, lease.Finish(t.Context(), 8, prune.Outcome{}), prune.ErrTaken)
	require.NoError(t, second.Finished(t.Context()))
	require.NoError(t, second.Release(t.Context(), nil))
	third := take(t, store, "plan", "3")
	require.False(t, third.Record.Finished.IsZero())
	require.Equal(t, 1, third.Record.Outcome.Deleted)
	require.False(t, third.Record.Done.Has(8))
}

// TestKilled: the lease of a process that was killed ends, for the next plan and for runs.
func TestKilled(t *testing.T) {
	t.Parallel()
	store := openStore(t, brokertest.Embedded(t)).EndLeasesAfter(2 * time.Second)
	lease := take(t, store, "plan", "1")
	require.NoError(t, store.Await(t.Context(), "registry.example.com"))
	states, err := store.States(t.Context())
	require.NoError(t, err)
	require.Equal(t, []prune.State{{Mirror: "default"}}, states)
	require.ErrorIs(t, lease.Finish(t.Context(), 0, prune.Outcome{}), prune.ErrTaken)
	require.ErrorIs(t, lease.Release(t.Context(), nil), prune.ErrTaken)

	waited := false
	take(t, store, "plan", "2")
	_, err = store.Take(t.Context(), "default", prune.Holder{Plan: "plan", Process: "3"}, func(prune.Holder) { waited = true })
	require.NoError(t, err)
	require.True(t, waited)
}

// TestAwait: a run to the destination, or above or below it, waits until nothing is pruned
// there.
func TestAwait(t *testing.T) {
	b := brokertest.Embedded(t)
	lease := take(t, openStore(t, b), "plan", "1")
	var waits []string
	waiting := func(h prune.Holder) { waits = append(waits, h.By) }
	for _, destination := range []string{"", "registry.example.com", "registry.example.com/mirror", "registry.example.com/mirror/below"} {
		ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
		require.ErrorIs(t, prune.Await(ctx, b, destination, waiting), context.DeadlineExceeded, destination)
		stop()
	}
	for _, destination := range []string{"registry.example.com/mirrors", "registry.example.com:5000/mirror", "registry.example.com/other"} {
		require.NoError(t, prune.Await(t.Context(), b, destination, waiting), destination)
	}
	require.NoError(t, lease.Release(t.Context(), nil))
	require.NoError(t, prune.Await(t.Context(), b, "", waiting))
	require.Equal(t, []string{"me", "me", "me", "me"}, waits)
}

// TestBusy: an execution ends when a run begins, and can be continued later.
func TestBusy(t *testing.T) {
	busy := errors.New("a run is under way")
	s := newSite(t)
	s.image("old", "old", 31)
	s.image("older", "older", 41)
	p := s.plan()
	store := openStore(t, brokertest.Embedded(t))
	run := func(x *prune.Execution) (prune.Outcome, error) {
		lease, err := store.Take(t.Context(), "default", prune.Holder{Plan: p.ID(), Destination: p.Destination, Process: "1"}, nil)
		require.NoError(t, err)
		done, failed := x.Run(t.Context(), p, lease)
		states, err := store.States(t.Context())
		require.NoError(t, err)
		require.Zero(t, states[0].Executing, "the lease is given back")
		return done, failed
	}
	x := s.execution()
	x.Busy = func(context.Context) error { return busy }
	_, err := run(x)
	require.ErrorIs(t, err, busy)
	require.Zero(t, s.to.Count(deletions))

	// Between two deletions.
	begun := make(chan struct{})
	var deleted atomic.Bool
	after := func(r registrytest.Request) bool {
		if deletions(r) {
			deleted.Store(true)
		}
		return r.Method == http.MethodHead && deleted.Load()
	}
	remove := s.to.Inject(registrytest.Fault{Match: after, Gate: begun})
	x.Busy = func(context.Context) error {
		if s.to.Count(after) > 0 {
			return busy
		}
		return nil
	}
	_, err = run(x)
	remove()
	close(begun)
	require.ErrorIs(t, err, busy)
	require.Equal(t, 1, s.to.Count(deletions))

	done, err := run(s.execution())
	require.NoError(t, err)
	require.Equal(t, prune.Outcome{Deleted: 1, Gone: 1}, done)
}

// TestUnanswered: if a registry has not answered a deletion, it may still be about to delete. So
// runs wait as if the process was killed.
func TestUnanswered(t *testing.T) {
	t.Parallel()
	busy := errors.New("a run is under way")
	s := newSite(t)
	s.image("old", "old", 31)
	p := s.plan()
	store := openStore(t, brokertest.Embedded(t))
	lease, err := store.Take(t.Context(), "default", prune.Holder{Plan: p.ID(), Destination: p.Destination, Process: "1"}, nil)
	require.NoError(t, err)
	held := make(chan struct{})
	var arrived atomic.Bool
	defer close(held)
	defer s.to.Inject(registrytest.Fault{Match: func(r registrytest.Request) bool {
		if deletions(r) {
			arrived.Store(true)
		}
		return deletions(r)
	}, Gate: held})()
	x := s.execution()
	x.Busy = func(context.Context) error {
		if arrived.Load() {
			return busy
		}
		return nil
	}
	_, err = x.Run(t.Context(), p, lease)
	require.ErrorIs(t, err, busy)
	states, err := store.States(t.Context())
	require.NoError(t, err)
	require.Equal(t, "1", states[0].Executing.Process)
	require.Equal(t, busy.Error(), states[0].Last.Why)
	// Only now, because on a busy machine the execution may renew its lease late.
	require.NoError(t, store.EndLeasesAfter(time.Second).Await(t.Context(), p.Destination))
	states, err = store.States(t.Context())
	require.NoError(t, err)
	require.Zero(t, states[0].Executing)
}

// TestLate: if the broker does not answer in time, so that another process may have taken the lease, nothing
// is deleted, and the confirmed plan is still to be executed.
func TestLate(t *testing.T) {
	s := newSite(t)
	s.image("kept", "kept", 0)
	s.image("old", "old", 31)
	p := s.plan()
	store := openStore(t, brokertest.Embedded(t))
	require.NoError(t, store.Propose(t.Context(), p, prune.Terms{Caps: prune.Caps{All: prune.MustShare(100), PerRepository: prune.MustShare(100)}}, "ada"))
	require.NoError(t, store.Confirm(t.Context(), p.Mirror, p.ID(), p.Tags, "ada"))
	lease := take(t, store, p.ID(), "1")
	lease.Age(time.Minute)
	_, err := s.execution().Run(t.Context(), p, lease)
	require.ErrorIs(t, err, prune.ErrTaken)
	require.Zero(t, s.to.Count(deletions))
	st, err := store.State(t.Context(), p.Mirror)
	require.NoError(t, err)
	require.True(t, st.Review.UnderWay())
	require.Zero(t, st.Executing)
	done, err := s.execution().Run(t.Context(), p, take(t, store, p.ID(), "2"))
	require.NoError(t, err)
	require.Equal(t, 1, done.Deleted)
}
