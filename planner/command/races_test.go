package command

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/plan"
	"github.com/osism/skopeo-worker/planner/web"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/prune"
)

// newSession returns a session at a broker of its own.
func newSession(t *testing.T) *session {
	t.Helper()
	b := brokertest.Embedded(t)
	runs, err := run.Open(t.Context(), b)
	require.NoError(t, err)
	limits, err := budget.Open(t.Context(), b, quiet)
	require.NoError(t, err)
	t.Cleanup(limits.Close)
	return &session{Broker: b, runs: runs, failures: failure.NewStore(b, quiet), budget: limits, name: "default", log: quiet}
}

// held makes runs wait before they are published, calls meanwhile with the run that waits, and lets it
// continue.
func (se *session) held(t *testing.T, meanwhile func(run.Run)) {
	t.Helper()
	store, err := prune.OpenStore(t.Context(), se.Broker)
	require.NoError(t, err)
	lease, err := store.Take(t.Context(), "other", prune.Holder{Plan: "plan", Destination: "127.0.0.1:5000", Process: "1"}, nil)
	require.NoError(t, err)
	go func() {
		var runs []run.Run
		if assert.Eventually(t, func() bool {
			runs, err = se.runs.List(t.Context(), se.name)
			return err == nil && len(runs) > 0
		}, time.Minute, 5*time.Millisecond) {
			meanwhile(runs[0])
		}
		_ = lease.Release(t.Context(), nil)
	}()
}

// TestSlowListing: the listing of namespaces may take longer than a planner may take to publish. The run
// does not look like one whose planner was killed.
func TestSlowListing(t *testing.T) {
	se := newSession(t)
	p, err := planOf(t, "containers: [nginx, redis]", nil)
	require.NoError(t, err)
	p.started = p.started.Add(-time.Hour) // since then, namespaces have been listed
	others := planning{session: se, log: quiet}
	se.held(t, func(run.Run) { others.settle(t.Context(), time.Now().Add(-run.Publishing+3*settleEvery)) })
	r, err := p.publish(t.Context(), se, false)
	require.NoError(t, err)
	require.True(t, r.Published)
	require.Empty(t, r.Ended)
	require.False(t, r.Interrupted)
}

// TestCancelledWhileRepublished: a run stays cancelled, and the command does not claim that its images are
// retried.
func TestCancelledWhileRepublished(t *testing.T) {
	se := newSession(t)
	require.NoError(t, se.failures.Add(t.Context(), se.name, failure.Record{
		Repository: "quay.io/osism/a", Registry: "quay.io", Chunk: 2, Run: "r0",
		Images: []failure.Image{{Source: "quay.io/osism/a:1", Destination: "127.0.0.1:5000/osism/a:1", Attempts: 1, Reason: "denied"}},
	}))
	ender := plan.Ender{Broker: se.Broker, Runs: se.runs, Failures: se.failures}
	se.held(t, func(r run.Run) { _, _ = ender.End(t.Context(), r, run.StateCancelled) })
	var said bytes.Buffer
	r, err := se.republish(t.Context(), &failureFilter{all: true}, &said)
	require.ErrorContains(t, err, "run "+r.ID+" was cancelled while it was published; its images become failures again")
	require.Equal(t, 4, exit.Code(err))
	require.Empty(t, said.String())
	r, err = se.runs.Get(t.Context(), se.name, r.ID)
	require.NoError(t, err)
	require.Equal(t, run.StateCancelled, r.Ended)
	require.Equal(t, 1, r.Chunks)
	require.True(t, r.Published)
}

// TestRepublishTakenForInterrupted: a republish that takes long may have been settled by planner serve.
func TestRepublishTakenForInterrupted(t *testing.T) {
	se := newSession(t)
	now := time.Now().UTC()
	r := run.Run{Name: se.name, ID: run.NewID(now), Kind: run.KindRepublish, Started: now, FirstDue: now}
	for what, settled := range map[string]func(){
		"kept":    func() { r.Interrupted, r.Published = true, true; require.NoError(t, se.runs.Put(t.Context(), r)) },
		"deleted": func() { require.NoError(t, se.runs.Delete(t.Context(), r.Name, r.ID)) },
	} {
		settled()
		_, err := se.noteRepublished(t.Context(), run.Run{Name: r.Name, ID: r.ID, Kind: r.Kind, Started: now, Chunks: 3, Entries: 4, Published: true})
		require.NoError(t, err, what)
		stored, err := se.runs.Get(t.Context(), r.Name, r.ID)
		require.NoError(t, err, what)
		require.Equal(t, []any{3, 4, true, false}, []any{stored.Chunks, stored.Entries, stored.Published, stored.Interrupted}, what)
	}
}

// TestNextPlan: a process does not know when other mirrors are planned.
func TestNextPlan(t *testing.T) {
	se, next := newSession(t), time.Now()
	p := planning{session: se, log: quiet}
	p.note(func(s *web.Schedule) { s.Next = next })
	require.Equal(t, next, p.next(se.name))
	require.Zero(t, p.next("other"))
}
