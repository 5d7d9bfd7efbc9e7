package consume

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/meter"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestCopies: rates are measured over whole intervals, however often the copies are listed.
func TestCopies(t *testing.T) {
	var c copies
	begun := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := new(meter.Meter)
	move := func(bytes int64) { meter.Add(meter.With(t.Context(), m), bytes) }
	require.False(t, c.any())
	ended := c.begin(run.Copy{Image: "a", Since: begun}, m)
	other := c.begin(run.Copy{Image: "b", Since: begun.Add(copiesInterval)}, new(meter.Meter))
	require.True(t, c.any())
	for _, look := range []struct {
		moved       int64
		after       time.Duration
		bytes, rate int64
	}{
		{0, 0, 0, 0},
		{500, copiesInterval / 2, 500, 0},
		{500, copiesInterval, 1000, 200},
		{1000, copiesInterval + time.Second, 2000, 200},
		{1000, 2 * copiesInterval, 3000, 400},
		{0, 3 * copiesInterval, 3000, 0},
	} {
		move(look.moved)
		list := c.list(begun.Add(look.after))
		require.Equal(t, []run.Copy{
			{Image: "a", Since: begun, Bytes: look.bytes, Rate: look.rate},
			{Image: "b", Since: begun.Add(copiesInterval)},
		}, list)
	}
	ended()
	require.Len(t, c.list(begun), 1)
	other()
	require.False(t, c.any())
	require.Empty(t, c.list(begun))
}

// TestUnderWay: the status shows a running copy and its bytes.
func TestUnderWay(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	b.push(t, "1")
	gate := make(chan struct{})
	defer b.from.Inject(registrytest.Fault{Match: blobs, Gate: gate})()
	tracker := b.plan(t, b.chunk())
	c := b.consumer(t)
	c.host = "worker-0"
	start(t, c)
	copied := func(when func(run.Copy) bool) (found run.Copy) {
		t.Helper()
		require.Eventually(t, func() bool {
			st, err := tracker.Status(t.Context())
			if err != nil || len(st.UnderWay) != 1 {
				return false
			}
			found = st.UnderWay[0]
			return when(found)
		}, 2*deadline, often)
		return found
	}
	now := copied(func(run.Copy) bool { return true })
	require.Equal(t, run.Copy{
		Image: b.from.Host() + "/" + repository + ":1", Destination: b.to.Host() + "/" + destination + ":1",
		Worker: "worker-0", Since: now.Since, Bytes: now.Bytes, Rate: now.Rate,
	}, now)
	require.WithinDuration(t, time.Now(), now.Since, time.Minute)
	moving := copied(func(c run.Copy) bool { return c.Bytes > 0 })
	require.Equal(t, now.Since, moving.Since)
	close(gate)
	require.Empty(t, over(t, tracker).UnderWay)
}

// TestOvertaken: the report of a late worker does not replace the end that another worker
// has recorded.
func TestOvertaken(t *testing.T) {
	b := embedded(t)
	c := b.consumer(t)
	b.plan(t, b.chunk())
	recorded := func() string {
		p, _, err := b.runs.Progress(t.Context(), b.address("000001"))
		require.NoError(t, err)
		return p.State
	}
	late, other := delivery{consumer: c, address: b.address("000001")}, delivery{consumer: c, address: b.address("000001")}
	for _, d := range []*delivery{&late, &other, &late} { // the other replaces the report of the late one
		d.Progress(run.Tally{Total: 1}, 0, 0)
		require.NoError(t, d.store(t.Context()))
		require.Equal(t, run.Running, recorded())
	}
	other.progress.State = run.Done
	require.NoError(t, other.store(t.Context()))
	for range 2 {
		late.Progress(run.Tally{Total: 1}, 0, 0)
		require.NoError(t, late.store(t.Context()))
		require.Equal(t, run.Done, recorded())
	}
	late.progress.State = run.Done
	require.NoError(t, late.store(t.Context()), "the last word is stored")
}
