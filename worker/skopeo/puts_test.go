package skopeo_test

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// TestTogetherEnds: the copy of an image ends when the destination has its blobs. skopeo does not wait for
// small ones, which it sends once for all images, and other images of the process may still be copied.
func TestTogetherEnds(t *testing.T) {
	g := newGated(t, 3, "exec SKOPEO")
	copied, later := make(chan struct{}), make(chan struct{})
	goOn := sync.OnceFunc(func() { close(later) })
	var puts atomic.Int64
	for n := range g.images {
		put := g.images[n].Put
		g.images[n].Put = func(ctx context.Context, blob registry.Descriptor, content []byte) error {
			puts.Add(1)
			if n > 0 {
				goOn()
			}
			<-later
			return put(ctx, blob, content)
		}
	}
	open := g.images[2].Open
	g.images[2].Open = func(ctx context.Context, blob registry.Descriptor) (skopeo.Blob, error) {
		<-copied
		return open(ctx, blob)
	}
	ended := g.begin(t)
	g.goOn(t, 1)
	for n, of := range ended {
		if n == 2 {
			close(copied)
		}
		require.NoError(t, <-of)
		g.whole(t, g.images[n])
	}
	require.Equal(t, 1, g.processes(t))
	require.EqualValues(t, 2*len(g.images)+1, puts.Load(), "the layers and configurations, and the common layer once")
}

// TestPutsAfterTheProcess: an image is not copied before the destination has stored its blobs, even if
// skopeo has ended.
func TestPutsAfterTheProcess(t *testing.T) {
	for _, images := range []int{1, 2} {
		failed := errors.New("the destination has failed")
		g := newGated(t, images, "SKOPEO; echo $? >>$0.ended")
		last := &g.images[images-1]
		stored := make(chan error)
		last.Put = func(ctx context.Context, blob registry.Descriptor, content []byte) error { return <-stored }
		ended := g.begin(t)
		g.goOn(t, 1)
		path := g.runner.Path + ".ended"
		require.Eventually(t, func() bool { text, _ := os.ReadFile(path); return string(text) == "0\n" }, deadline, time.Millisecond)
		select {
		case err := <-ended[images-1]:
			require.Fail(t, "it is not copied yet", err)
		case stored <- failed:
		}
		close(stored)
		require.ErrorIs(t, <-ended[images-1], failed)
	}
}

// TestInterruptedPut: a copy that is interrupted ends, although the destination does not answer, and the
// other images are copied.
func TestInterruptedPut(t *testing.T) {
	g := newGated(t, 2, "exec SKOPEO")
	ctx, cancel := context.WithCancel(t.Context())
	g.images[1].Put = func(ctx context.Context, _ registry.Descriptor, _ []byte) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	ended := g.begin(t, t.Context(), ctx)
	g.goOn(t, 2)
	require.ErrorIs(t, <-ended[1], context.Canceled)
	require.NoError(t, <-ended[0])
	g.whole(t, g.images[0])
}
