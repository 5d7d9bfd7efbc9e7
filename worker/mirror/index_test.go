package mirror_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

var amd64 = platform.Wanted{Platforms: []string{"linux/amd64"}}

// TestSomePlatforms: the destination gets an index of the wanted platforms, with everything that it
// refers to. Later, one request to the destination shows that it is up to date.
func TestSomePlatforms(t *testing.T) {
	p := newPair(t)
	digest, err := p.from.PushIndex(repository, "1", registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64"))
	require.NoError(t, err)
	p.from.ResetRequests()

	copied, err := p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), registry.Descriptor{Digest: reference.MustDigest(digest)}, amd64)
	require.NoError(t, err)
	require.NotEqual(t, digest, copied.Digest)
	require.Equal(t, 3, copied.Pulls, "the index, one image, its attestation")
	require.Equal(t, 3, p.from.Pulls())
	require.NoError(t, p.Tag(t.Context(), p.target("1"), copied.Digest))
	require.NoError(t, p.to.Check(destination, "1"))
	children, err := p.to.Children(destination, "1")
	require.NoError(t, err)
	require.Len(t, children, 2)

	p.to.ResetRequests()
	current, have, err := p.Current(t.Context(), p.target("1"), reference.MustDigest(digest), amd64)
	require.NoError(t, err)
	require.True(t, current)
	require.Equal(t, copied.Digest, have)
	require.Len(t, p.to.Requests(), 1)
	for name, other := range map[string]platform.Wanted{
		"other platforms":  {Platforms: []string{"linux/arm64"}},
		"no attestations":  {Platforms: amd64.Platforms, WithoutAttestations: true},
		"every platform":   {},
		"all but attested": {WithoutAttestations: true},
	} {
		current, _, err := p.Current(t.Context(), p.target("1"), reference.MustDigest(digest), other)
		require.NoError(t, err, name)
		require.False(t, current, name)
	}
}

// TestNoWantedPlatform: nothing of an index without wanted platforms is copied. An image is pulled
// once, to read its platform.
func TestNoWantedPlatform(t *testing.T) {
	p := newPair(t)
	index, err := p.from.PushIndex(repository, "index", registrytest.MultiPlatform("1", "linux/arm64", "linux/s390x"))
	require.NoError(t, err)
	image, err := p.from.PushImage(repository, "image", registrytest.Image{Platform: "linux/arm64"})
	require.NoError(t, err)
	p.from.ResetRequests()

	copied, err := p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), registry.Descriptor{Digest: reference.MustDigest(index)}, amd64)
	require.ErrorIs(t, err, platform.ErrNoPlatform)
	require.Equal(t, 1, copied.Pulls)
	for range 2 {
		_, err = p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), registry.Descriptor{Digest: reference.MustDigest(image)}, amd64)
		require.ErrorIs(t, err, platform.ErrNoPlatform)
	}
	require.Equal(t, 2, p.from.Pulls())

	copied, err = p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), registry.Descriptor{Digest: reference.MustDigest(image)}, platform.Wanted{Platforms: []string{"linux/arm64"}})
	require.NoError(t, err)
	require.Equal(t, image, copied.Digest.String(), "an image keeps its digest")
}
