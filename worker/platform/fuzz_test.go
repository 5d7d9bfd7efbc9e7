package platform_test

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/platform"
)

// FuzzSubset: a subset is not empty, and is current for the index from which it was made.
func FuzzSubset(f *testing.F) {
	wanted := platform.Wanted{Platforms: []string{"linux/amd64"}, WithoutAttestations: true}
	f.Fuzz(func(t *testing.T, index string, config []byte) {
		_, _ = wanted.Image(config)
		whole := manifest(types.OCIImageIndex, index)
		subset, entries, err := wanted.Subset(whole)
		if err != nil {
			return
		}
		again, err := subset.Entries()
		require.NoError(t, err)
		require.Len(t, again, len(entries))
		if subset.Digest != whole.Digest {
			require.True(t, wanted.Current(subset, whole.Digest))
		}
	})
}
