package mirror_test

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// newOddPair returns a pair for manifests that skopeo cannot copy: it would change the name in a
// schema 1 manifest, and version 1.9.3 supports only SHA-256.
func newOddPair(t *testing.T) *pair {
	t.Helper()
	p := newPairBetween(t, registrytest.New(t, registrytest.WithOddManifests()), registrytest.New(t, registrytest.WithOddManifests()))
	p.Engine = nil
	return p
}

// TestSchema1: a schema 1 manifest is copied byte for byte, with its signatures, although its digest
// does not cover them.
func TestSchema1(t *testing.T) {
	p := newOddPair(t)
	digest, err := p.from.PushSchema1(repository, "1", registrytest.Layer{Seed: "a", Size: 5000}, registrytest.Layer{Seed: "b", Size: 5000})
	require.NoError(t, err)
	cost, err := p.mirror(t, "1")
	require.NoError(t, err)
	p.same(t, "1")
	require.Equal(t, digest, cost.Digest.String())
	require.Equal(t, 1, cost.Pulls)
	require.Equal(t, 1, p.from.Count(gets))
}

// TestForeignLayers: layers that only their publisher may distribute are not copied.
func TestForeignLayers(t *testing.T) {
	for _, kinds := range [][3]types.MediaType{
		{types.DockerManifestSchema2, types.DockerConfigJSON, types.DockerForeignLayer},
		{types.OCIManifestSchema1, types.OCIConfigJSON, types.OCIRestrictedLayer},
	} {
		t.Run(string(kinds[0]), func(t *testing.T) {
			p := newPair(t)
			config, err := p.from.PushBlob(repository, []byte(`{"architecture":"amd64","os":"windows","rootfs":{"type":"layers","diff_ids":[]}}`))
			require.NoError(t, err)
			_, err = p.from.PushManifest(repository, "1", kinds[0], fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"size":%d,"digest":%q},`+
				`"layers":[{"mediaType":%q,"size":5,"digest":%q,"urls":["https://example.com/base.tgz"]}]}`,
				kinds[0], kinds[1], 80, config, kinds[2], reference.DigestOf([]byte("elsewhere"))))
			require.NoError(t, err)
			_, err = p.mirror(t, "1")
			require.NoError(t, err)
			want, err := p.from.Digest(repository, "1")
			require.NoError(t, err)
			got, err := p.to.Digest(destination, "1")
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

// TestForeignLayersWithoutURLs: foreign layers without URLs, which no other server has, are copied.
func TestForeignLayersWithoutURLs(t *testing.T) {
	p := newPair(t)
	config, err := p.from.PushBlob(repository, []byte("{}"))
	require.NoError(t, err)
	layer, err := p.from.PushBlob(repository, []byte("a layer"))
	require.NoError(t, err)
	_, err = p.from.PushManifest(repository, "1", types.OCIManifestSchema1, fmt.Appendf(nil,
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"size":2,"digest":%q},"layers":[{"mediaType":%q,"size":7,"digest":%q}]}`,
		types.OCIManifestSchema1, types.OCIConfigJSON, config, types.OCIRestrictedLayer, layer))
	require.NoError(t, err)
	_, err = p.mirror(t, "1")
	require.NoError(t, err)
	p.same(t, "1")
}

// TestOtherDigests: manifests and blobs with SHA-512 digests are copied.
func TestOtherDigests(t *testing.T) {
	p := newOddPair(t)
	push := func(content string) string {
		digest := fmt.Sprintf("sha512:%x", sha512.Sum512([]byte(content)))
		require.NoError(t, p.from.LinkBlob(repository, digest, []byte(content)))
		return digest
	}
	raw := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"size":2,"digest":%q},"layers":[{"mediaType":%q,"size":7,"digest":%q}]}`,
		types.OCIManifestSchema1, types.OCIConfigJSON, push("{}"), types.OCILayer, push("a layer"))
	digest, err := p.from.PushOdd(repository, fmt.Sprintf("sha512:%x", sha512.Sum512([]byte(raw))), types.OCIManifestSchema1, []byte(raw))
	require.NoError(t, err)
	copied, err := p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), registry.Descriptor{Digest: reference.MustDigest(digest)}, platform.Wanted{})
	require.NoError(t, err)
	require.Equal(t, digest, copied.Digest.String())
	got, err := p.to.Manifest(destination, digest)
	require.NoError(t, err)
	require.Equal(t, raw, string(got))
	require.NoError(t, p.to.Check(destination, digest))
}

// errPolicy is returned by strict.
var errPolicy = errors.New("rejected by the signature policy")

// strict is an engine that reads images itself, and whose policy rejects all of them.
type strict struct{ idle }

func (strict) Pulls(context.Context, reference.Repository) int { return 2 }

func (strict) CopyManifest(context.Context, reference.Repository, reference.Digest, reference.Repository) error {
	return errPolicy
}

// TestWrongTypesEvadeNoPolicy: an image that the engine has to copy is left to it, whatever media type the
// source or an index states. Otherwise, the signature policy would not be asked.
func TestWrongTypesEvadeNoPolicy(t *testing.T) {
	for _, stated := range []string{string(types.OCIManifestSchema1), string(types.OCIImageIndex), "text/plain", ""} {
		for _, within := range []bool{false, true} {
			t.Run(fmt.Sprintf("%q, in an index %t", stated, within), func(t *testing.T) {
				p := newPair(t)
				p.Engine = strict{idle{t}}
				digest, err := p.from.PushImage(repository, "1", registrytest.Image{})
				require.NoError(t, err)
				d := registry.Descriptor{Digest: reference.MustDigest(digest), MediaType: stated}
				if within {
					raw, err := p.from.Manifest(repository, digest)
					require.NoError(t, err)
					index, err := p.from.PushManifest(repository, "", types.OCIImageIndex, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[`+
						`{"mediaType":%q,"digest":%q,"size":%d,"platform":{"os":"linux","architecture":"amd64"}}]}`, types.OCIImageIndex, stated, digest, len(raw)))
					require.NoError(t, err)
					d = registry.Descriptor{Digest: reference.MustDigest(index), MediaType: string(types.OCIImageIndex)}
				}
				_, err = p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), d, platform.Wanted{})
				require.ErrorIs(t, err, errPolicy)
				require.Zero(t, p.to.Count(puts))
			})
		}
	}
}
