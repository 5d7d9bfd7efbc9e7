package consume

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

// schedule puts a remainder and a planned chunk into the stream, due in an hour.
func schedule(t *testing.T, b *bench) {
	t.Helper()
	due := time.Now().Add(time.Hour)
	require.NoError(t, b.runs.Put(t.Context(), run.Run{Name: name, ID: runID, Chunks: 2, Started: time.Now(), FirstDue: due, Published: true}))
	require.NoError(t, b.runs.Record(t.Context(), b.address("000002-7"), run.Progress{State: run.Snoozed, Due: due}))
	data, err := b.chunk().Encode()
	require.NoError(t, err)
	for root, token := range map[string]string{subject.Plan: "000001", subject.Later: "000002-7"} {
		_, err := b.Publish(t.Context(), broker.Scheduled(root, b.address(token), due, data))
		require.NoError(t, err)
	}
}

// TestSweep fires what is overdue, and nothing that is not, once, though two workers
// look at the same time.
func TestSweep(t *testing.T) {
	b := embedded(t)
	schedule(t, b)
	one, two := b.consumer(t), b.consumer(t)
	soon := time.Now().Add(time.Hour + overdue/2) // not late enough
	require.NoError(t, one.Sweep(t.Context(), soon))
	require.Empty(t, b.subjects(t, subject.Chunk+".>"))
	late := time.Now().Add(time.Hour + 2*overdue)
	suspects, err := one.runs.Overdue(t.Context(), late)
	require.NoError(t, err)
	require.Len(t, suspects, 2)
	for _, s := range suspects { // the schedule itself has the last word
		require.NoError(t, one.fire(t.Context(), s, soon))
	}
	require.Empty(t, b.subjects(t, subject.Chunk+".>"))
	var group errgroup.Group
	for _, c := range []*Consumer{one, two, one, two} {
		group.Go(func() error { return c.Sweep(t.Context(), late) })
		for _, s := range suspects {
			group.Go(func() error { return c.fire(t.Context(), s, late) })
		}
	}
	require.NoError(t, group.Wait())
	info, err := b.Stream.Info(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, info.State.Msgs)
	require.ElementsMatch(t, []string{b.address("000001").Under(subject.Chunk), b.address("000002-7").Under(subject.Chunk)},
		b.subjects(t, subject.OfRun(name, runID)))
}

// TestSweepGoesOn: a schedule that cannot be fired does not hold up the others.
func TestSweepGoesOn(t *testing.T) {
	b := embedded(t)
	schedule(t, b)
	bad := broker.Scheduled(subject.Later, b.address("000000-1"), time.Now().Add(time.Hour), []byte("x"))
	bad.Header.Set("Nats-Schedule-Target", "mirror.failed.elsewhere")
	_, err := b.Publish(t.Context(), bad)
	require.NoError(t, err)
	require.NoError(t, b.consumer(t).Sweep(t.Context(), time.Now().Add(2*time.Hour)))
	require.Len(t, b.subjects(t, subject.Chunk+".>"), 2)
}
