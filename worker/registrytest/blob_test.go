package registrytest

import (
	"io"
	"sync"
	"testing"

	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// TestSteady: a blob may be read while it is pushed again.
func TestSteady(t *testing.T) {
	const path = "/blob"
	content := []byte("content")
	d := steady{inmemory.New(), new(sync.Mutex)}
	require.NoError(t, d.PutContent(t.Context(), path, content))
	reader, err := d.Reader(t.Context(), path, 0)
	require.NoError(t, err)
	var clients errgroup.Group
	clients.Go(func() error { return d.PutContent(t.Context(), path, content) })
	read, err := io.ReadAll(reader)
	require.NoError(t, err)
	require.Equal(t, content, read)
	require.NoError(t, clients.Wait())
}
