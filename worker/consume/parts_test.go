package consume

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/metrics"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestPartsAreShared: one repository with too many new tags for one worker keeps
// several busy. They count as the one chunk they come from, and nothing is copied
// twice.
func TestPartsAreShared(t *testing.T) {
	const tags, distinct = 300, 100
	b := newBench(t, brokertest.Open(t, brokertest.Start(t).Config()))
	names := registrytest.Numbered("%03d", tags)
	require.NoError(t, b.from.AddSynthetic(repository, registrytest.Synthetic{Tags: names, Distinct: distinct}))
	gate := make(chan struct{})
	b.from.Inject(registrytest.Fault{Match: gets, Gate: gate})
	// Of a family the first is copied alone, so two at once are of two workers.
	held := map[string]bool{}
	shared := b.from.Notify(func(r registrytest.Request) bool {
		if gets(r) {
			held[r.Reference] = true
		}
		return len(held) >= 2
	})
	workers := []*Consumer{b.consumer(t), b.consumer(t), b.consumer(t)}
	var stop []func()
	for _, c := range workers {
		stop = append(stop, start(t, c))
	}
	tracker := b.plan(t, b.chunk())
	select {
	case <-shared:
	case <-time.After(deadline):
		close(gate)
		t.Fatal("one worker has all of it")
	}
	st, err := tracker.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, run.StateRunning, st.State)
	require.Equal(t, run.Chunks{Total: 1, Running: 1}, st.Chunks)
	close(gate)

	st = over(t, tracker)
	require.Equal(t, run.StateDone, st.State)
	require.Equal(t, run.Chunks{Total: 1, Done: 1}, st.Chunks)
	require.Equal(t, run.Tally{Total: tags, Copied: distinct, Tagged: tags - distinct}, st.Images)
	require.Equal(t, distinct, st.Pulls)
	require.Equal(t, distinct, b.from.Pulls())
	b.mirrored(t, names...)
	require.Empty(t, b.subjects(t, "mirror.chunk.>"))
	split := 0
	for i, c := range workers {
		stop[i]()
		split += counted(t, c, countedChunks, metrics.ChunkSplit)
	}
	require.Equal(t, 1, split)
}

// TestEmbeddedBrokerSplitsNothing: nobody else could take a part.
func TestEmbeddedBrokerSplitsNothing(t *testing.T) {
	const tags = 81
	b := embedded(t)
	require.NoError(t, b.from.AddSynthetic(repository, registrytest.Synthetic{Tags: registrytest.Numbered("%03d", tags)}))
	c := b.consumer(t)
	stop := start(t, c)
	st := over(t, b.plan(t, b.chunk()))
	require.Equal(t, run.Tally{Total: tags, Copied: tags}, st.Images)
	stop()
	require.Zero(t, counted(t, c, countedChunks, metrics.ChunkSplit))
}
