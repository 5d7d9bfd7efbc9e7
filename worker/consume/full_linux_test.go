package consume

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

// TestFullStore: nothing is lost while the broker's disk is full. nats-server stores
// nothing until it is restarted; then the same worker goes on.
func TestFullStore(t *testing.T) {
	t.Parallel()
	disk := brokertest.NewSmall(t)
	s := brokertest.Start(t, func(o *server.Options) { o.StoreDir = disk.Path })
	b := newHarness(t, brokertest.Open(t, s.Config()))
	b.push(t, "1", "2", "3")
	_, _, err := b.from.BreakImage(repository, "2")
	require.NoError(t, err)
	tracker := b.plan(t, b.chunk())
	refused := make(chan struct{}, 1)
	b.log = notifying(refused)
	c := b.consumer(t)
	disk.Fill()

	start(t, c)
	<-refused
	require.ErrorIs(t, b.Writable(t.Context()), broker.ErrFull)
	disk.Free()
	require.ErrorIs(t, b.Writable(t.Context()), broker.ErrFull, "until it is started again")
	s.Restart()
	require.Equal(t, run.Tally{Total: 3, Copied: 2, Failed: 1}, over(t, tracker).Images)
	require.Len(t, b.failures(t), 1)
	b.mirrored(t, "1", "3")
	require.Empty(t, b.subjects(t, subject.OfRun(name, runID)))
	require.NoError(t, b.Writable(t.Context()))
}

// TestFullEmbeddedStore: the worker ends, because no one else can restart its broker.
func TestFullEmbeddedStore(t *testing.T) {
	t.Parallel()
	disk := brokertest.NewSmall(t)
	b := newHarness(t, brokertest.Open(t, broker.Config{DataDir: disk.Path}))
	b.push(t, "1", "2")
	c := b.consumer(t)
	b.plan(t, b.chunk())
	disk.Fill()
	err := c.Run(t.Context())
	require.ErrorIs(t, err, broker.ErrFull)
	require.ErrorContains(t, err, "the broker's disk is full (DATA_DIR="+disk.Path+"): free some space, then run the command again")
	b.Close()

	disk.Free()
	b.Broker = brokertest.Open(t, broker.Config{DataDir: disk.Path})
	b.runs, err = run.Open(t.Context(), b.Broker)
	require.NoError(t, err)
	tracker, err := b.runs.Track(t.Context(), name, runID)
	require.NoError(t, err)
	start(t, b.consumer(t))
	require.Equal(t, 2, over(t, tracker).Images.Total)
	b.mirrored(t, "1", "2")
}
