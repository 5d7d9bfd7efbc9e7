package budget

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestRecreatedBuckets: if a bucket was deleted, its revisions start again, and its new entries
// count.
func TestRecreatedBuckets(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	worker := opened(t, b, 0)
	worker.stop()
	worker.running.Wait()
	for n := range 3 {
		require.NoError(t, worker.SetLimits(t.Context(), "default", map[string]Limit{registry: {n + 1, time.Hour}}))
	}
	require.NoError(t, worker.CatchUp(t.Context()))
	require.NoError(t, b.JS.DeleteKeyValue(t.Context(), bucketLimits))
	require.NoError(t, b.Ensure(t.Context()))
	require.NoError(t, opened(t, b, 0).SetLimits(t.Context(), "default", map[string]Limit{registry: {7, time.Hour}}))
	require.NoError(t, worker.refresh(t.Context()))
	got, _ := worker.Limit(registry, "")
	require.Equal(t, Limit{7, time.Hour}, got)
}

// TestDeletedWindow: the stream of a budget that was deleted is created again, but not before the broker
// has deleted its files.
func TestDeletedWindow(t *testing.T) {
	t.Parallel()
	s := opened(t, brokertest.Embedded(t), 0)
	require.NoError(t, s.SetLimits(t.Context(), "default", map[string]Limit{registry: {2, time.Hour}}))
	take := func() error { _, err := s.Take(t.Context(), "", registry, ""); return err }
	require.NoError(t, take())
	name := s.window(registry, "").name
	require.NoError(t, s.b.JS.DeleteStream(t.Context(), name))
	deleted, err := s.b.Time(t.Context())
	require.NoError(t, err)
	require.NoError(t, take())
	stream, err := s.b.JS.Stream(t.Context(), name)
	require.NoError(t, err)
	require.GreaterOrEqual(t, stream.CachedInfo().Created.Sub(deleted), 2*time.Second)
	require.EqualValues(t, 1, stream.CachedInfo().State.Msgs)
}
