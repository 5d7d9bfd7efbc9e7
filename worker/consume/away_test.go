package consume

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/metrics"
)

// outage is what a worker finds of every registry.
type outage struct{ closed error }

func (o outage) Open(context.Context, ...reference.Repository) (bool, error) {
	return false, o.closed
}
func (o outage) Blames(context.Context, error) error                 { return nil }
func (o outage) Known(_, _ reference.Repository, _ reference.Digest) {}

// TestWaitsForARegistry: what is left is recorded with the registry that it waits for.
func TestWaitsForARegistry(t *testing.T) {
	b := embedded(t)
	b.push(t, "1")
	c := b.consumer(t)
	c.worker.Registries = outage{&budget.SpentError{Registry: b.to.Host(), Slot: time.Now().Add(time.Hour), Since: time.Now(), Reason: "503"}}
	tracker := b.plan(t, b.chunk(message.Image{Tag: reference.MustTag("1")}))
	start(t, c)
	require.Eventually(t, func() bool {
		st, err := tracker.Status(t.Context())
		return err == nil && st.State == run.StateSnoozed && len(st.Away) == 1 && st.Away[0] == b.to.Host()
	}, deadline, often)
	require.Empty(t, b.from.Requests())
}

// TestCutOff: a worker that does not reach what others reach leaves the chunks to them.
func TestCutOff(t *testing.T) {
	b := embedded(t)
	b.push(t, "1")
	cutOff, other := b.consumer(t), b.consumer(t)
	cutOff.worker.Registries = outage{&budget.SpentError{Registry: b.to.Host(), Slot: time.Now(), Since: time.Now(), Reason: "503", CutOff: true}}
	cutOff.pause = time.Hour
	tracker := b.plan(t, b.chunk())
	stop := start(t, cutOff)
	require.Eventually(t, func() bool { return counted(t, cutOff, countedChunks, metrics.ChunkSnoozed) == 1 }, deadline, often)
	start(t, other)
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, over(t, tracker).Images)
	stop()
	require.Equal(t, 1, counted(t, cutOff, countedChunks, metrics.ChunkSnoozed))
	require.Equal(t, 1, counted(t, other, countedChunks, metrics.ChunkDone))
}
