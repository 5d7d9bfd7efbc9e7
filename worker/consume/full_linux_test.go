package consume

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

// storeSize is enough for an empty broker, and soon filled.
const storeSize = "size=6m"

// TestFullStore: while the broker's disk is full nothing is lost. nats-server stops
// writing until it is restarted; then everything goes on, in the same worker.
func TestFullStore(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, storeSize); err != nil {
		t.Skipf("needs the right to mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	broker := brokertest.Start(t, func(o *server.Options) { o.StoreDir = dir })
	b := newBench(t, brokertest.Open(t, broker.Config()))
	b.push(t, "1", "2", "3")
	_, _, err := b.from.BreakImage(repository, "2")
	require.NoError(t, err)
	tracker := b.plan(t, b.chunk())
	refused := make(chan struct{}, 1)
	b.log = notifying(refused)
	c := b.consumer(t)
	filler := filepath.Join(dir, "filler")
	fill(t, filler)

	start(t, c)
	<-refused
	require.NoError(t, os.Remove(filler))
	broker.Restart()
	require.Equal(t, run.Tally{Total: 3, Copied: 2, Failed: 1}, over(t, tracker).Images)
	require.Len(t, b.failures(t), 1)
	b.mirrored(t, "1", "3")
	require.Empty(t, b.subjects(t, subject.OfRun(name, runID)))
}

// fill writes to a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	block := make([]byte, os.Getpagesize())
	for err == nil {
		_, err = f.Write(block)
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, f.Close())
}
