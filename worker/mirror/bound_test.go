package mirror

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// TestImagesHaveABound: an image with too many manifests is not copied, in however many indexes.
func TestImagesHaveABound(t *testing.T) {
	c := (&Mirror{}).copying(reference.MustRepository("quay.io/a/b"), reference.Repository{})
	c.manifests.Store(maxManifests)
	err := c.manifest(t.Context(), item{Descriptor: registry.Descriptor{Digest: reference.DigestOf(nil)}})
	require.ErrorIs(t, err, registry.ErrTooMany)
	require.ErrorIs(t, err, registry.ErrBadManifest)
	require.ErrorContains(t, err, "too many manifests: an image may have at most 10000")
}
