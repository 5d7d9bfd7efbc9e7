package run

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/subject"
)

func TestToPull(t *testing.T) {
	for name, c := range map[string]struct {
		left    left
		want    int
		atLeast bool
	}{
		"nothing left":                        {left{resolved: 3, handled: 10, pulls: 30}, 0, false},
		"no image is done: each is one pull":  {left{resolved: 1, images: 7}, 7, true},
		"images cost as much as the others":   {left{resolved: 1, images: 7, handled: 10, pulls: 25}, 18, false},
		"the others were only tagged":         {left{resolved: 1, images: 7, handled: 10}, 0, false},
		"chunks cost as much as the others":   {left{resolved: 2, unresolved: 3, handled: 10, pulls: 30}, 45, false},
		"both":                                {left{resolved: 2, unresolved: 3, images: 5, handled: 10, pulls: 30}, 15 + 68, false},
		"the others have changed nothing":     {left{resolved: 2, unresolved: 3}, 0, false},
		"nothing is known":                    {left{unresolved: 3}, 0, true},
		"images of some chunks, others fresh": {left{resolved: 1, unresolved: 1, images: 4}, 8, true},
	} {
		n, atLeast := c.left.toPull()
		require.Equal(t, c.want, n, name)
		require.Equal(t, c.atLeast, atLeast, name)
	}
}

// leaves requires the work that the run has left, all at one registry.
func (y *story) leaves(want Registry) Status {
	y.t.Helper()
	st := y.now()
	require.Equal(y.t, []Registry{want}, st.Registries)
	return st
}

// TestWhatIsLeft: the status has the remaining pulls of each registry, and the estimated end is not
// before the last chunk is due.
func TestWhatIsLeft(t *testing.T) {
	y := begin(t, "r1", "1", "2", "3")
	y.r.Published = true
	y.put()
	hub := subject.NewAddress(name, y.r.ID, "docker.io", "3")
	require.NoError(t, y.s.Record(t.Context(), hub, Progress{State: Done, Images: Tally{Total: 9, Copied: 9}, Pulls: 9}))

	lastDue := y.r.FirstDue.Add(2 * time.Hour)
	st := y.leaves(Registry{Registry: "quay.io", ToPullAtLeast: true})
	require.Equal(t, lastDue, *st.EstimatedDone)

	y.fire(subject.Plan, "1")
	y.record("1", Progress{State: Running, Images: Tally{Total: 20, Copied: 4, Unchanged: 6}, Pulls: 12})
	y.leaves(Registry{Registry: "quay.io", ToPull: 30 + 2*(12+30)})

	// Two messages of one chunk count as one chunk. Images that are finished, and images that were
	// never looked up, are still counted.
	y.publish(subject.Later, "1-7")
	y.record("1-7", Progress{State: Snoozed, Due: lastDue.Add(time.Hour), Images: Tally{Total: 5}})
	y.publish(subject.Later, "2-8")
	y.record("2-8", Progress{State: Snoozed, Due: lastDue})
	y.record("1", Progress{State: Done, Images: Tally{Total: 12, Copied: 4, Unchanged: 6, Failed: 2}, Pulls: 12})
	y.record("2", Progress{State: Done})
	y.gone(subject.Chunk, "1")
	y.gone(subject.Plan, "2")
	st = y.leaves(Registry{Registry: "quay.io", ToPull: 10 + 2*(12+10)})
	require.Equal(t, lastDue.Add(time.Hour), *st.EstimatedDone)

	y.r.Ended = StateCancelled
	y.put()
	st = y.becomes(StateCancelled, Chunks{Total: 3, Done: 1, Dropped: 3})
	require.Empty(t, st.Registries)
	require.Nil(t, st.EstimatedDone)
}
