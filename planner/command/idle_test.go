package command

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

// TestIsIdle: nothing is pruned while a run to the destination has a chunk, even if a newer run is
// over, if another mirror name has planned it, or if it was cancelled.
func TestIsIdle(t *testing.T) {
	const here, there = "registry.example.com/mirror", "other.example.com/mirror"
	for name, c := range map[string]struct {
		mirror, destination, ended string
		busy                       bool
	}{
		"of the mirror":                      {"nightly", here, "", true},
		"cancelled":                          {"nightly", here, run.StateCancelled, true},
		"of another mirror":                  {"weekly", here, "", true},
		"of another mirror, somewhere else":  {"weekly", there, "", false},
		"of another mirror, above":           {"weekly", "registry.example.com", "", true},
		"of another mirror, below":           {"weekly", here + "/more", "", true},
		"of another mirror, beside":          {"weekly", here + "s", "", false},
		"of another mirror, but not planned": {"weekly", "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			b := brokertest.Embedded(t)
			runs, err := run.Open(t.Context(), b)
			require.NoError(t, err)
			se := &session{Broker: b, runs: runs, name: "nightly"}
			require.NoError(t, se.idleness(here).check(t.Context()))
			start := time.Now().UTC().Add(-time.Hour)
			under := run.Run{Name: c.mirror, ID: run.NewID(start), Kind: run.KindPlan, Chunks: 1, Destination: c.destination, Started: start, FirstDue: start, Published: true, Ended: c.ended}
			require.NoError(t, runs.Put(t.Context(), under))
			_, err = b.Publish(t.Context(), nats.NewMsg(subject.NewAddress(c.mirror, under.ID, "quay.io", "1").Under(subject.Chunk)))
			require.NoError(t, err)
			later := start.Add(time.Minute)
			require.NoError(t, runs.Put(t.Context(), run.Run{Name: "nightly", ID: run.NewID(later), Kind: run.KindRepublish, Started: later, FirstDue: later, Published: true}))
			err = se.idleness(here).check(t.Context())
			if !c.busy {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, errUnfinished)
			require.ErrorContains(t, err, "run "+under.ID+" of mirror "+c.mirror+" is not over; wait for it, or cancel it with planner cancel")
		})
	}
}
