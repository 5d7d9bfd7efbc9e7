package plan

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/list"
	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/prune"
)

const registry = "quay.io"

var source, target = reference.MustRepository("quay.io/a/b"), reference.MustRepository("dest:5000/a/b")

// desk is a planner with a broker, and runs at given times.
type desk struct {
	*Publisher
	t     *testing.T
	start time.Time
}

func newDesk(t *testing.T) *desk {
	b := brokertest.Embedded(t)
	runs, err := run.Open(t.Context(), b)
	require.NoError(t, err)
	return &desk{Publisher: &Publisher{Broker: b, Runs: runs, Failures: failure.NewStore(b, slog.New(slog.DiscardHandler))}, t: t, start: time.Now()}
}

// run returns a run that begins the given number of seconds after the first.
func (d *desk) run(kind string, after int) run.Run {
	at := d.start.Add(time.Duration(after) * time.Second).UTC()
	return run.Run{Name: name, ID: run.NewID(at), Kind: kind, Started: at, FirstDue: at}
}

// sliced returns chunks of one image each. The first ones are due, the others are due in an hour.
func sliced(due, waiting int) []Chunk {
	var all []Chunk
	for i := range due + waiting {
		at := time.Now()
		if i >= due {
			at = at.Add(time.Hour)
		}
		all = append(all, Chunk{Number: i + 1, Registry: registry, Due: at, Entries: []list.Entry{{
			Reference:   reference.Reference{Repository: source, Tag: reference.MustTag(fmt.Sprint(i + 1))},
			Destination: target,
		}}})
	}
	return all
}

func (d *desk) publish(r run.Run, full bool, due, waiting int) run.Run {
	d.t.Helper()
	r, err := d.Publish(d.t.Context(), r, sliced(due, waiting), full)
	require.NoError(d.t, err)
	require.Eventually(d.t, func() bool {
		n, err := d.Broker.Count(d.t.Context(), subject.OfRunUnder(subject.Chunk, name, r.ID))
		return err == nil && n == due
	}, 10*time.Second, 5*time.Millisecond)
	return r
}

func (d *desk) status(r run.Run) run.Status {
	d.t.Helper()
	tracker, err := d.Runs.Track(d.t.Context(), name, r.ID)
	require.NoError(d.t, err)
	st, err := tracker.Status(d.t.Context())
	require.NoError(d.t, err)
	return st
}

func (d *desk) subjects(root string, r run.Run) (tokens []string) {
	d.t.Helper()
	info, err := d.Broker.Stream.Info(d.t.Context(), jetstream.WithSubjectFilter(subject.OfRunUnder(root, name, r.ID)))
	require.NoError(d.t, err)
	for subj := range info.State.Subjects {
		a, err := subject.ParseAddress(subj)
		require.NoError(d.t, err)
		tokens = append(tokens, a.Token)
	}
	return tokens
}

// remainder publishes a remainder as a worker does.
func (d *desk) remainder(r run.Run, token string, data []byte) {
	d.t.Helper()
	a := subject.NewAddress(name, r.ID, registry, token)
	_, err := d.Broker.Publish(d.t.Context(), broker.Scheduled(subject.Later, a, time.Now().Add(time.Hour), data))
	require.NoError(d.t, err)
}

func encoded(t *testing.T, c message.Chunk) []byte {
	t.Helper()
	data, err := c.Encode()
	require.NoError(t, err)
	return data
}

// TestCancel: planned and snoozed chunks are dropped at once. Due chunks count as dropped, and the
// workers drop them. Chunks that a worker has do not count.
func TestCancel(t *testing.T) {
	d := newDesk(t)
	r := d.publish(d.run(run.KindPlan, 0), true, 3, 2)
	require.NoError(t, d.Runs.Record(t.Context(), subject.NewAddress(name, r.ID, registry, "000001"), run.Progress{State: run.Running}))
	left := message.Chunk{Name: name, Run: r.ID, Number: 1, Registry: registry, Repositories: []message.Repository{
		{Source: source, Destination: target, Images: []message.Image{{Tag: reference.MustTag("8")}, {Tag: reference.MustTag("9")}}},
	}}
	d.remainder(r, "000001-7", encoded(t, left)) // of the chunk that is under way
	d.remainder(r, "000009-8", encoded(t, left))
	d.remainder(r, "000009-9", []byte(`{"version":99}`))
	_, err := d.Broker.Publish(t.Context(), nats.NewMsg("mirror.plan."+name+"."+r.ID+".stray"))
	require.NoError(t, err)

	dropped, err := d.ender().End(t.Context(), r, run.StateCancelled)
	require.NoError(t, err)
	require.Equal(t, Dropped{Chunks: 5, Images: 8, UnderWay: 1}, dropped)
	require.Empty(t, d.subjects(subject.Plan, r))
	require.Empty(t, d.subjects(subject.Later, r))
	require.Len(t, d.subjects(subject.Chunk, r), 3)
	st := d.status(r)
	require.Equal(t, run.StateCancelled, st.State)
	require.Equal(t, run.Tally{Total: 6, Dropped: 6}, st.Images)
	require.Equal(t, 1, st.Chunks.Running)
	require.Equal(t, 5, st.Chunks.Dropped)

	again, err := d.ender().End(t.Context(), r, run.StateCancelled)
	require.NoError(t, err)
	require.Equal(t, Dropped{Chunks: 2, Images: 2, UnderWay: 1}, again)
}

// TestCancelOfARepublish: its images become failures again.
func TestCancelOfARepublish(t *testing.T) {
	d := newDesk(t)
	r := d.run(run.KindRepublish, 0)
	require.NoError(t, d.Runs.Put(t.Context(), r))
	d.remainder(r, "r000001-7", encoded(t, message.Chunk{Name: name, Run: r.ID, Number: 4, Registry: registry, Republished: true,
		Repositories: []message.Repository{{Source: source, Destination: target, Tag: reference.MustTag("1")}}}))
	d.remainder(r, "r000002-8", []byte(`{"version":99}`))
	dropped, err := d.ender().End(t.Context(), r, run.StateCancelled)
	require.NoError(t, err)
	require.Equal(t, Dropped{Chunks: 1, Images: 1, Unread: 1}, dropped)
	records, err := failure.NewStore(d.Broker, slog.New(slog.DiscardHandler)).List(t.Context(), name)
	require.NoError(t, err)
	require.Len(t, records, 1)
	require.Equal(t, "quay.io/a/b:1", records[0].Images[0].Source)
	require.Equal(t, failure.ReasonCancelled, records[0].Images[0].Reason)
	require.Equal(t, []string{"r000002-8"}, d.subjects(subject.Later, r))
}

// TestSupersede: a plan of the whole list ends only older plans of its name that are not over.
func TestSupersede(t *testing.T) {
	d := newDesk(t)
	full := d.publish(d.run(run.KindPlan, 0), true, 2, 1)
	part := d.publish(d.run(run.KindPlan, 1), false, 1, 0)
	over := d.publish(d.run(run.KindPlan, 2), false, 0, 0)
	again := d.publish(d.run(run.KindRepublish, 3), false, 1, 0)
	planning := d.run(run.KindPlan, 4) // by another planner
	require.NoError(t, d.Runs.Put(t.Context(), planning))
	unknown := d.run(run.KindPlan, 5)
	_, err := d.Broker.Publish(t.Context(), broker.Scheduled(subject.Plan, subject.NewAddress(name, unknown.ID, registry, "1"), time.Now().Add(time.Hour), nil))
	require.NoError(t, err)
	newer := d.publish(d.run(run.KindPlan, 60), false, 1, 2)
	require.Empty(t, d.status(full).Finished, "a part of the list takes nobody's place")
	require.Equal(t, run.StateWaiting, d.status(full).State)

	r := d.publish(d.run(run.KindPlan, 30), true, 1, 1)
	for _, older := range []run.Run{full, part, planning} {
		require.Equal(t, run.StateSuperseded, d.status(older).State)
		require.Empty(t, d.subjects(subject.Plan, older))
	}
	require.Equal(t, run.Chunks{Total: 3, Dropped: 3}, d.status(full).Chunks)
	require.Equal(t, run.StateDone, d.status(over).State)
	require.Empty(t, d.subjects(subject.Plan, unknown))
	require.Len(t, d.subjects(subject.Plan, newer), 2, "it was published before, and is newer")
	for _, other := range []run.Run{again, newer, r} {
		require.Equal(t, run.StateWaiting, d.status(other).State)
	}
	require.Len(t, d.subjects(subject.Plan, r), 1)
}

// TestOvertaken: if a newer plan is published while an older one is, the newer one stays whole, and the
// older one is dropped.
func TestOvertaken(t *testing.T) {
	d := newDesk(t)
	store, err := prune.OpenStore(t.Context(), d.Broker)
	require.NoError(t, err)
	lease, err := store.Take(t.Context(), name, prune.Holder{Plan: "plan", Destination: "dest:5000", Process: "1"}, nil)
	require.NoError(t, err)
	older, newer := d.run(run.KindPlan, 0), d.run(run.KindPlan, 1)
	older.Destination, newer.Destination = "dest:5000", "other:5000" // a prune plan is being executed at the first
	d.Waiting = func(prune.Holder) {
		d.publish(newer, true, 0, 2)
		require.NoError(t, lease.Release(t.Context(), nil))
	}
	older, err = d.Publish(t.Context(), older, sliced(1, 1), true)
	require.ErrorContains(t, err, "run "+older.ID+" was superseded while it was published")
	require.Equal(t, 4, exit.Code(err))
	require.Len(t, d.subjects(subject.Plan, newer), 2)
	require.Empty(t, d.subjects(subject.Plan, older))
	require.Equal(t, run.StateWaiting, d.status(newer).State)
	require.Equal(t, run.StateSuperseded, d.status(older).State)
}
