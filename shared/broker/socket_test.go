package broker_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
)

// openDir opens the embedded broker of a folder.
func openDir(t *testing.T, dir string, o broker.Options) (*broker.Broker, error) {
	t.Helper()
	o.Client, o.Log = t.Name(), slog.New(slog.DiscardHandler)
	b, err := broker.Open(t.Context(), broker.Config{Replicas: 1, DataDir: dir}, o)
	if err == nil {
		t.Cleanup(b.Close)
	}
	return b, err
}

// longFolder is a folder whose path is longer than the kernel accepts for a socket.
func longFolder(t *testing.T) string { return filepath.Join(t.TempDir(), strings.Repeat("long", 50)) }

func TestSharedBroker(t *testing.T) {
	for name, dir := range map[string]string{"short": filepath.Join(t.TempDir(), "data"), "long": longFolder(t)} {
		t.Run(name, func(t *testing.T) {
			owner, err := openDir(t, dir, broker.Options{Share: true})
			require.NoError(t, err)
			require.True(t, owner.Embedded())

			socket := filepath.Join(dir, "run", "broker.sock")
			for path, mode := range map[string]os.FileMode{socket: os.ModeSocket | 0o600, filepath.Dir(socket): os.ModeDir | 0o700} {
				info, err := os.Stat(path)
				require.NoError(t, err)
				require.Equal(t, mode, info.Mode())
			}

			// Processes that need the folder for themselves are refused. Others can join.
			_, err = openDir(t, dir, broker.Options{Share: true})
			require.ErrorIs(t, err, broker.ErrInUse)
			guest, err := openDir(t, dir, broker.Options{Share: true, Join: true})
			require.NoError(t, err)
			require.False(t, guest.Embedded())

			// Both use the same broker, whose consumer keeps its settings.
			before := owner.Consumer.CachedInfo().Config
			require.Equal(t, before, guest.Consumer.CachedInfo().Config)
			kv, err := guest.Bucket(t.Context(), jetstream.KeyValueConfig{Bucket: "seen"})
			require.NoError(t, err)
			large := bytes.Repeat([]byte{1}, 512<<10)
			_, err = kv.Put(t.Context(), "key", large)
			require.NoError(t, err)
			kv, err = owner.Bucket(t.Context(), jetstream.KeyValueConfig{Bucket: "seen"})
			require.NoError(t, err)
			entry, err := kv.Get(t.Context(), "key")
			require.NoError(t, err)
			require.Equal(t, large, entry.Value())

			// If a guest closes its connection, the broker continues.
			guest.Close()
			_, err = kv.Put(t.Context(), "key", nil)
			require.NoError(t, err)

			owner.Close()
			require.NoFileExists(t, socket)
			owner, err = openDir(t, dir, broker.Options{Join: true})
			require.NoError(t, err)
			require.True(t, owner.Embedded())
		})
	}
}

// TestUnsharedBroker: while a process does not share its broker, others fail with ErrInUse, even if
// an unused socket remains in the folder.
func TestUnsharedBroker(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "run"), 0o700))
	left, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "run", "broker.sock")})
	require.NoError(t, err)
	left.SetUnlinkOnClose(false)
	require.NoError(t, left.Close())

	owner, err := openDir(t, dir, broker.Options{})
	require.NoError(t, err)
	_, err = openDir(t, dir, broker.Options{Join: true})
	require.ErrorIs(t, err, broker.ErrInUse)
	owner.Close()

	// The next process that shares its broker replaces the socket.
	owner, err = openDir(t, dir, broker.Options{Share: true})
	require.NoError(t, err)
	guest, err := openDir(t, dir, broker.Options{Join: true})
	require.NoError(t, err)

	// The broker ends with its process, and so do all connections.
	owner.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.Error(t, guest.Conn.FlushWithContext(ctx))
}
