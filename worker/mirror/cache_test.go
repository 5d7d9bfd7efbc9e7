package mirror_test

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

const (
	cacheConfig = "application/vnd.buildkit.cacheconfig.v0"
	foreign     = "application/vnd.example.unheard-of"
)

var cache = registrytest.Cache{Layers: []registrytest.Layer{{Seed: "a", Size: 5000}, {Seed: "b", Size: 5000}}}

// newCachePair returns a pair whose destination accepts indexes of blobs, as distribution 3 does if
// validation.manifests.indexes.platforms is none.
func newCachePair(t *testing.T, source ...registrytest.Option) *pair {
	t.Helper()
	return newPairBetween(t, registrytest.New(t, source...), registrytest.New(t, registrytest.WithPartialIndexes()))
}

// TestCache: a cache that BuildKit has exported is mirrored byte for byte, for one pull.
func TestCache(t *testing.T) {
	docker, newer, empty := cache, cache, registrytest.Cache{}
	docker.Docker = true
	newer.Type = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	for name, c := range map[string]registrytest.Cache{
		"OCI": cache, "Docker": docker, "layers of a new type": newer, "without layers": empty,
	} {
		t.Run(name, func(t *testing.T) {
			p := newCachePair(t)
			_, err := p.from.PushCache(repository, "1", c)
			require.NoError(t, err)
			cost, err := p.mirror(t, "1")
			require.NoError(t, err)
			p.same(t, "1")
			require.Equal(t, 1, cost.Pulls)
			require.Equal(t, 1, p.from.Pulls())

			p.from.ResetRequests()
			p.to.ResetRequests()
			_, err = p.mirror(t, "1")
			require.NoError(t, err)
			require.Zero(t, p.from.Count(gets))
			require.Zero(t, p.to.Count(registrytest.Kinds(registrytest.KindBlobUpload)))
		})
	}
}

// TestCacheOfSomePlatforms: blobs, which have no platform, are mirrored with the wanted images.
func TestCacheOfSomePlatforms(t *testing.T) {
	for name, test := range map[string]struct {
		images []registrytest.Image
		left   int
	}{
		"cache":            {left: 3},
		"cache and images": {images: []registrytest.Image{{Platform: "linux/amd64"}, {Platform: "linux/arm64"}}, left: 4},
	} {
		t.Run(name, func(t *testing.T) {
			p := newCachePair(t)
			mixed := cache
			mixed.Images = test.images
			digest, err := p.from.PushCache(repository, "cache", mixed)
			require.NoError(t, err)
			cost, err := p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), registry.Descriptor{Digest: reference.MustDigest(digest)}, platform.Wanted{Platforms: []string{"linux/amd64"}})
			require.NoError(t, err)
			require.NoError(t, p.Tag(t.Context(), p.target("cache"), cost.Digest))
			require.NoError(t, p.to.Check(destination, cost.Digest.String()))
			children, err := p.to.Children(destination, cost.Digest.String())
			require.NoError(t, err)
			require.Len(t, children, test.left)
			require.Greater(t, cost.Bytes, int64(2*5000))
		})
	}
}

// TestUnknownTypes: an entry of unknown type is looked up at the source, as a manifest first, with a
// GET if HEAD answers "not found".
func TestUnknownTypes(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{"": nil, "HEAD after GET": {registrytest.WithHeadAfterGet()}} {
		t.Run(name, func(t *testing.T) {
			p := newCachePair(t, options...)
			image, err := p.from.PushImage(repository, "", registrytest.Image{})
			require.NoError(t, err)
			raw, err := p.from.Manifest(repository, image)
			require.NoError(t, err)
			blob, err := p.from.PushBlob(repository, []byte("a blob"))
			require.NoError(t, err)
			index := push(t, p.from, "1", entry(image, len(raw)), entry(blob, len("a blob")))
			_, err = p.mirror(t, "1")
			require.NoError(t, err)
			_, err = p.to.Digest(destination, image)
			require.NoError(t, err)
			require.NoError(t, p.to.Check(destination, image))
			require.Equal(t, index, tagged(t, p.to, "1"))

			missing := push(t, p.from, "2", entry("sha256:"+strings.Repeat("1", 64), 5))
			_, err = p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), registry.Descriptor{Digest: reference.MustDigest(missing)}, platform.Wanted{})
			require.ErrorIs(t, err, registry.ErrNotFound)
		})
	}
}

func entry(digest string, size int) v1.Descriptor {
	hash, _ := v1.NewHash(digest)
	return v1.Descriptor{MediaType: foreign, Size: int64(size), Digest: hash}
}

// push stores an index with these entries.
func push(t *testing.T, r *registrytest.Registry, tag string, entries ...v1.Descriptor) string {
	t.Helper()
	raw, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: entries})
	require.NoError(t, err)
	digest, err := r.PushManifest(repository, tag, types.OCIImageIndex, raw)
	require.NoError(t, err)
	return digest
}

func tagged(t *testing.T, r *registrytest.Registry, tag string) string {
	t.Helper()
	digest, err := r.Digest(destination, tag)
	require.NoError(t, err)
	return digest
}

// TestRefusedMediaTypes: the error names the media types even if the destination's answer does not.
func TestRefusedMediaTypes(t *testing.T) {
	for name, test := range map[string]struct {
		refused string
		push    func(r *registrytest.Registry) (string, error)
	}{
		"cache": {cacheConfig, func(r *registrytest.Registry) (string, error) {
			return r.PushCache(repository, "1", cache)
		}},
		"index": {string(types.OCIImageIndex), func(r *registrytest.Registry) (string, error) {
			return r.PushIndex(repository, "1", registrytest.MultiPlatform("1", "linux/amd64"))
		}},
		"image": {string(types.OCIManifestSchema1), func(r *registrytest.Registry) (string, error) {
			return r.PushImage(repository, "1", registrytest.Image{})
		}},
		"chart": {"application/vnd.cncf.helm.config.v1+json", func(r *registrytest.Registry) (string, error) {
			return r.PushChart(repository, "1")
		}},
		"zstd": {string(types.OCILayerZStd), func(r *registrytest.Registry) (string, error) {
			return r.PushImage(repository, "1", registrytest.Image{Layers: []registrytest.Layer{{Seed: "z", Size: 5000, Zstd: true}}})
		}},
	} {
		for _, status := range []int{http.StatusBadRequest, http.StatusNotFound, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity, -http.StatusBadRequest} {
			t.Run(name+strconv.Itoa(status), func(t *testing.T) {
				t.Parallel()
				p := newPairBetween(t, registrytest.New(t), registrytest.New(t, registrytest.WithoutMediaType(test.refused, max(status, -status))))
				if status < 0 {
					p.byItself()
				}
				_, err := test.push(p.from)
				require.NoError(t, err)
				cost, err := p.mirror(t, "1")
				require.Error(t, err)
				require.Equal(t, outcome.Final, outcome.Classify(err))
				require.Contains(t, outcome.Reason(err), test.refused)
				require.Contains(t, outcome.Reason(err), p.to.Host())
				require.Equal(t, p.from.Pulls(), cost.Pulls)
			})
		}
	}
}

// TestDestinationThatWantsManifests: distribution 3 refuses an index of blobs by default, with the
// error that the blobs are unknown. Ours names their media type.
func TestDestinationThatWantsManifests(t *testing.T) {
	p := newPair(t)
	_, err := p.from.PushCache(repository, "1", cache)
	require.NoError(t, err)
	_, err = p.mirror(t, "1")
	require.Equal(t, outcome.Final, outcome.Classify(err))
	require.ErrorContains(t, err, cacheConfig)
}

// TestBlobThatIsGone: if a blob is missing at the source, the index does not count as deleted.
func TestBlobThatIsGone(t *testing.T) {
	p := newCachePair(t)
	digest, err := p.from.PushCache(repository, "1", cache)
	require.NoError(t, err)
	children, err := p.from.Children(repository, digest)
	require.NoError(t, err)
	mend, err := p.from.BreakBlob(repository, children[0].Digest.String())
	require.NoError(t, err)
	_, err = p.mirror(t, "1")
	require.ErrorContains(t, err, children[0].Digest.String())
	require.NoError(t, mend())
	_, err = p.mirror(t, "1")
	require.NoError(t, err)
	p.same(t, "1")
}
