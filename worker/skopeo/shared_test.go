package skopeo_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
	"github.com/osism/skopeo-worker/worker/transfer"
)

var (
	blobGets = registrytest.Kinds(registrytest.KindBlobGet)
	mounts   = registrytest.All(registrytest.Kinds(registrytest.KindBlobMount), registrytest.Answered(http.StatusCreated))
)

// family is images with common layers, which one process after the other, or all at once, copies into
// repositories.
type family struct {
	from, to *registrytest.Registry
	runner   *skopeo.Runner
	blobs    *transfer.Blobs
	client   *registry.Client
}

func newFamily(t *testing.T) *family {
	t.Helper()
	from, to, _, r := pair(t)
	client := registry.NewClient(registry.Options{Insecure: []string{from.Host(), to.Host()}})
	return &family{from, to, r, transfer.New(client), client}
}

// image returns an image with these layers, for a repository.
func (f *family) image(t *testing.T, repository, version string, layers ...registrytest.Layer) skopeo.Image {
	t.Helper()
	digest, err := f.from.PushImage(source, version, registrytest.Image{Version: version, Layers: layers})
	require.NoError(t, err)
	return imageOf(t, f.client, f.blobs, reference.MustRepository(f.from.Host()+"/"+source), reference.MustRepository(f.to.Host()+"/"+repository), digest)
}

// whole requires that the destination has all of an image.
func (f *family) whole(t *testing.T, image skopeo.Image) {
	t.Helper()
	require.NoError(t, f.client.Writing().Put(t.Context(), image.Destination, image.Manifest.Digest, image.Manifest))
	require.NoError(t, f.to.Check(image.Destination.Path(), image.Manifest.Digest.String()))
}

// TestProcessesShareLayers: processes that need the same layer at the same moment get it once from the
// source, also a small one that an image has twice. Other repositories mount it.
func TestProcessesShareLayers(t *testing.T) {
	f := newFamily(t)
	base := []registrytest.Layer{{Seed: "base", Size: large}, {Seed: "small", Size: small}}
	var images []skopeo.Image
	for i, repository := range []string{"mirror/a", "mirror/a", "mirror/b", "mirror/c"} {
		layers := slices.Concat(base[:2], []registrytest.Layer{{Seed: fmt.Sprint(i), Size: small}, base[1]})
		if i%2 == 1 { // in another order
			layers[0], layers[1] = layers[1], layers[0]
		}
		images = append(images, f.image(t, repository, fmt.Sprint(i), layers...))
	}
	f.from.ResetRequests()
	ended := make(chan error)
	for _, image := range images {
		go func() { ended <- f.runner.CopyImage(t.Context(), image) }()
	}
	for range images {
		require.NoError(t, <-ended)
	}
	for _, image := range images {
		f.whole(t, image)
	}
	require.Equal(t, 2*2, f.to.Count(mounts), "two layers in two more repositories")
	gets := map[string]int{}
	for _, request := range f.from.Requests() {
		if blobGets(request) {
			gets[request.Reference]++
		}
	}
	require.Len(t, gets, 2+2*len(images))
	for digest, n := range gets {
		require.Equal(t, 1, n, digest)
	}
}

// TestProcessGoesOn: a process that waits for the copy of another one copies the layer itself if the
// other fails, is interrupted, or dies.
func TestProcessGoesOn(t *testing.T) {
	layer := registrytest.Layer{Seed: "base", Size: large}
	failed := errors.New("the source has failed")
	for name, end := range map[string]struct {
		open func() (skopeo.Blob, error) // of the first process, for the layer
		want error
	}{
		"fails":       {func() (skopeo.Blob, error) { return nil, failed }, failed},
		"interrupted": {nil, context.Canceled},
	} {
		for _, repository := range []string{"mirror/a", "mirror/b"} {
			t.Run(name+" "+repository, func(t *testing.T) {
				f := newFamily(t)
				first, second := f.image(t, "mirror/a", "1", layer), f.image(t, repository, "2", layer)
				ctx, cancel := context.WithCancel(t.Context())
				opened, waits := make(chan struct{}), make(chan struct{})
				open := first.Open
				first.Open = func(ctx context.Context, blob registry.Descriptor) (skopeo.Blob, error) {
					if blob.Size < int64(large) {
						return open(ctx, blob)
					}
					close(opened)
					<-waits
					if end.open != nil {
						return end.open()
					}
					cancel()
					<-ctx.Done()
					return nil, ctx.Err()
				}
				claim := second.Claim
				var asked atomic.Bool
				second.Claim = func(ctx context.Context, blob registry.Descriptor) (func(), error) {
					if blob.Size >= int64(large) && !asked.Swap(true) {
						close(waits)
					}
					return claim(ctx, blob)
				}
				ended := make(chan error)
				go func() { ended <- f.runner.CopyImage(ctx, first) }()
				<-opened
				require.NoError(t, f.runner.CopyImage(t.Context(), second))
				require.ErrorIs(t, <-ended, end.want)
				f.whole(t, second)
			})
		}
	}
}

// TestTurn: no more processes than AtOnce have their turn.
func TestTurn(t *testing.T) {
	r := &skopeo.Runner{AtOnce: 1}
	first, err := r.Turn(t.Context(), skopeo.Image{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = r.Turn(ctx, skopeo.Image{})
	require.ErrorIs(t, err, context.Canceled)
	first.End()
	next, err := r.Turn(t.Context(), skopeo.Image{})
	require.NoError(t, err)
	next.End()
}
