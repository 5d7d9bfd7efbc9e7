package overview

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/semaphore"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	name   = "default"
	maxAge = 36 * time.Hour
)

// read is a reader with a clock that the test moves, and the stores that it reads.
type read struct {
	*Reader
	t      *testing.T
	b      *broker.Broker
	passed time.Duration
}

func open(t *testing.T) *read {
	t.Helper()
	b, quiet := brokertest.Embedded(t), slog.New(slog.DiscardHandler)
	runs, err := run.Open(t.Context(), b)
	require.NoError(t, err)
	limits, err := budget.Open(t.Context(), b, quiet)
	require.NoError(t, err)
	t.Cleanup(limits.Close)
	r := &read{Reader: New(Sources{Runs: runs, Failures: failure.NewStore(b, quiet), Budget: limits}, name, maxAge), t: t, b: b}
	r.now = func() time.Time { return time.Now().Add(r.passed) }
	return r
}

// put stores a run of one chunk, with the progress that a worker has recorded.
func (r *read) put(kind string, progress ...run.Progress) string {
	r.t.Helper()
	return r.store(run.Run{Kind: kind}, progress...)
}

func (r *read) store(stored run.Run, progress ...run.Progress) string {
	r.t.Helper()
	now := time.Now().UTC()
	stored.Name, stored.ID, stored.Chunks, stored.Started, stored.FirstDue, stored.Published = name, run.NewID(now), 1, now, now, true
	require.NoError(r.t, r.sources.Runs.Put(r.t.Context(), stored))
	for _, p := range progress {
		p.Updated = now
		require.NoError(r.t, r.sources.Runs.Record(r.t.Context(), r.address(stored.ID), p))
	}
	return stored.ID
}

func (r *read) address(id string) subject.Address {
	return subject.NewAddress(name, id, "quay.io", "000001")
}

// later moves the clock until the overview is old, and reads it again.
func (r *read) later(passed time.Duration) Mirror {
	r.t.Helper()
	r.passed += max(passed, fresh)
	o, err := r.Now(r.t.Context())
	require.NoError(r.t, err)
	m, err := o.Mirror(name)
	require.NoError(r.t, err)
	return m
}

var done = run.Progress{State: run.Done, Images: run.Tally{Total: 1, Copied: 1}}

// TestFirstRun: a mirror without a complete run is stale if its first run is old.
func TestFirstRun(t *testing.T) {
	r := open(t)
	id := r.put(run.KindPlan)
	_, err := r.b.JS.Publish(t.Context(), r.address(id).Under(subject.Chunk), []byte("a chunk"))
	require.NoError(t, err)
	m := r.later(0)
	require.Equal(t, verdictRunning, m.Verdict)
	require.Nil(t, m.Complete)
	require.False(t, m.Stale)
	m = r.later(2 * maxAge)
	require.Equal(t, verdictRunning, m.Verdict)
	require.True(t, m.Stale)
}

func TestVerdicts(t *testing.T) {
	r := open(t)
	require.Equal(t, verdictEmpty, r.later(0).Verdict)

	r.put(run.KindPlan, done)
	m := r.later(0)
	require.Equal(t, verdictFresh, m.Verdict)
	require.NotNil(t, m.Complete)
	require.False(t, m.Stale)

	// A republish does not count as a complete run.
	r.put(run.KindRepublish, done)
	m = r.later(2 * maxAge)
	require.Equal(t, verdictStale, m.Verdict)
	require.True(t, m.Stale)
	r.passed = 0

	// The status of a run changes until its last chunk is done.
	id := r.put(run.KindPlan)
	_, err := r.b.JS.Publish(t.Context(), r.address(id).Under(subject.Chunk), []byte("a chunk"))
	require.NoError(t, err)
	m = r.later(time.Minute)
	require.Equal(t, verdictRunning, m.Verdict)
	require.Equal(t, id, m.Current[0].Run)
	require.NotNil(t, m.Complete)
	require.NoError(t, r.sources.Runs.Record(t.Context(), r.address(id), run.Progress{State: run.Done, Images: run.Tally{Total: 1, Failed: 1}, Updated: time.Now()}))
	require.NoError(t, r.b.Stream.Purge(t.Context()))
	require.NoError(t, r.sources.Failures.Add(t.Context(), name, failure.Record{
		Repository: "quay.io/a/b", Registry: "quay.io", Run: id, Images: []failure.Image{{Source: "quay.io/a/b:1", Destination: "d/a/b:1"}},
	}))
	m = r.later(0)
	require.Equal(t, verdictFailing, m.Verdict)
	require.Equal(t, run.StateFailed, m.Last.State)
	require.Equal(t, run.Failures{Images: 1}, m.Failures)
	require.Empty(t, r.trackers)

	// The chunk of this run is gone.
	r.put(run.KindPlan)
	require.Equal(t, verdictLost, r.later(0).Verdict)
	_, err = r.sources.Failures.Subtract(t.Context(), name, "quay.io", "quay.io/a/b", func(string) bool { return true })
	require.NoError(t, err)
	id = r.put(run.KindPlan)
	require.NoError(t, r.sources.Runs.End(t.Context(), name, id, run.StateCancelled))
	require.Equal(t, verdictEnded, r.later(lostAgain).Verdict)
}

// TestNotTheWholeList: after a plan of one chunk, and after one whose namespaces could not all be listed, not
// every image of the list is known to be mirrored. A plan of one chunk is not a complete run.
func TestNotTheWholeList(t *testing.T) {
	r := open(t)
	r.store(run.Run{Kind: run.KindPlan, Partial: true}, done)
	m := r.later(0)
	require.Equal(t, verdictEnded, m.Verdict)
	require.Nil(t, m.Complete)
	require.Equal(t, verdictStale, r.later(2*maxAge).Verdict)
	r.passed = 0

	r.store(run.Run{Kind: run.KindPlan, FailedNamespaces: []string{"quay.io/team: 500"}}, done)
	m = r.later(0)
	require.Equal(t, verdictFailing, m.Verdict)
	require.NotNil(t, m.Complete, "it has tried every image that it knows")
	r.put(run.KindPlan, done)
	require.Equal(t, verdictFresh, r.later(0).Verdict)
}

// TestMany: many readers cost the broker one reading per second.
func TestMany(t *testing.T) {
	r := open(t)
	first, err := r.Now(t.Context())
	require.NoError(t, err)
	r.put(run.KindPlan, done)
	again, err := r.Now(t.Context())
	require.NoError(t, err)
	require.Equal(t, first, again)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.True(t, r.turn.TryAcquire(1)) // somebody reads
	_, err = r.Now(ctx)
	require.ErrorIs(t, err, context.Canceled)
	r.turn.Release(1)
}

func TestRuns(t *testing.T) {
	r := open(t)
	var ids []string
	for range 5 {
		ids = append(ids, r.put(run.KindPlan, done))
	}
	runs, total, err := r.Runs(t.Context(), name, 1, 2)
	require.NoError(t, err)
	require.Equal(t, 5, total)
	require.Len(t, runs, 2)
	require.Equal(t, run.StateDone, runs[0].Status.State)

	found, chunks, err := r.Run(t.Context(), name, ids[0])
	require.NoError(t, err)
	require.Equal(t, ids[0], found.ID)
	require.Len(t, chunks, 1)
	require.Equal(t, "quay.io", chunks[0].Registry)
	_, _, err = r.Run(t.Context(), name, "20260101-000000-000-0000")
	require.ErrorIs(t, err, run.ErrNotFound)

	// The reader forgets runs that have expired at the broker.
	require.Len(t, r.ended, 4) // the newest, two of the list, and the oldest
	for _, id := range ids {
		require.NoError(t, r.sources.Runs.Delete(t.Context(), name, id))
	}
	require.Equal(t, verdictEmpty, r.later(0).Verdict)
	require.Empty(t, r.ended)
}

func TestUsual(t *testing.T) {
	var runs []Run
	for _, minutes := range []int{5, 1, 9} {
		require.Zero(t, Usual(runs))
		started := time.Now()
		finished := started.Add(time.Duration(minutes) * time.Minute)
		runs = append(runs, Run{run.Run{Kind: run.KindPlan}, run.Status{State: run.StateDone, Started: started, Finished: &finished}})
	}
	require.Equal(t, 5*time.Minute, Usual(runs))
}

// TestSlow: if the broker is slow, the error says so, also for a reader that waits for another one.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Reader{turn: semaphore.NewWeighted(1)}
		readings := make(chan error)
		for range 2 {
			go func() {
				readings <- r.alone(t.Context(), func(ctx context.Context) error {
					<-ctx.Done()
					return fmt.Errorf("listing runs: %w", ctx.Err())
				})
			}()
		}
		for range 2 {
			require.EqualError(t, <-readings, "the broker cannot be reached: it has not answered everything within 20s")
		}
	})
}
