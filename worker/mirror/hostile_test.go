package mirror_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestHostileDigests: if a manifest has an invalid digest, nothing that it refers to is requested or
// put.
func TestHostileDigests(t *testing.T) {
	const attestation = `,"annotations":{"vnd.docker.reference.type":"attestation-manifest"}`
	index := func(kind types.MediaType, digest, more string) []byte {
		return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"size":2,"digest":%q%s}]}`,
			types.OCIImageIndex, kind, digest, more)
	}
	image := func(layer string) []byte {
		return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"size":2,"digest":%q},"layers":[{"mediaType":"a/b","size":2,"digest":%q}]}`,
			types.OCIManifestSchema1, types.OCIConfigJSON, reference.DigestOf([]byte("{}")), layer)
	}
	for _, digest := range []string{
		"", "sha256:", "sha256:../../../../victim/app/manifests/latest", "../../../../victim/app/manifests/latest", "latest", "sha256:\n",
		"md5:0123456789abcdef0123456789abcdef", "sha256:0123", reference.DigestOf(nil).String() + "0", "SHA256:" + reference.DigestOf(nil).Hex(),
	} {
		for name, push := range map[string]func(p *pair) (string, error){
			"child": func(p *pair) (string, error) {
				return p.from.PushManifest(repository, "1", types.OCIImageIndex, index(types.OCIManifestSchema1, digest, ""))
			},
			"child of a child": func(p *pair) (string, error) {
				inner, err := p.from.PushManifest(repository, "", types.OCIImageIndex, index(types.OCIImageIndex, digest, ""))
				if err != nil {
					return "", err
				}
				return p.from.PushManifest(repository, "1", types.OCIImageIndex, index(types.OCIImageIndex, inner, ""))
			},
			"blob of an attestation": func(p *pair) (string, error) {
				inner, err := p.from.PushManifest(repository, "", types.OCIManifestSchema1, image(digest))
				if err != nil {
					return "", err
				}
				return p.from.PushManifest(repository, "1", types.OCIImageIndex, index(types.OCIManifestSchema1, inner, attestation))
			},
		} {
			t.Run(fmt.Sprintf("%q as a %s", digest, name), func(t *testing.T) {
				p := newPair(t)
				_, err := push(p)
				require.NoError(t, err)
				_, err = p.mirror(t, "1")
				require.ErrorIs(t, err, registry.ErrBadManifest)
				require.ErrorContains(t, err, reference.Quote(digest))
				nothingWritten(t, p)
			})
		}
	}
}

// TestHostileLayers: invalid digests of layers make skopeo, too, write to no other repository.
func TestHostileLayers(t *testing.T) {
	for _, layer := range []string{
		"sha256:../../../../victim/app/manifests/latest", "../../../../victim/app/manifests/latest", "sha256:../../../../../v2/victim/app/blobs/uploads/",
	} {
		t.Run(layer, func(t *testing.T) {
			p := newPair(t)
			front := registrytest.NewFront(t, p.to)
			insecure := []string{p.from.Host(), p.to.Host(), front}
			p.Mirror = mirrortest.New(t, registry.NewClient(registry.Options{Insecure: insecure}), engine(t, insecure))
			victim, err := p.to.PushImage("victim/app", "latest", registrytest.Image{})
			require.NoError(t, err)
			config, err := p.from.PushBlob(repository, []byte("{}"))
			require.NoError(t, err)
			digest, err := p.from.PushManifest(repository, "1", types.OCIManifestSchema1, fmt.Appendf(nil,
				`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"size":2,"digest":%q},"layers":[{"mediaType":%q,"size":2,"digest":%q}]}`,
				types.OCIManifestSchema1, types.OCIConfigJSON, config, types.OCILayer, layer))
			require.NoError(t, err)
			_, err = p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(front+"/"+destination),
				registry.Descriptor{Digest: reference.MustDigest(digest), MediaType: string(types.OCIManifestSchema1)}, platform.Wanted{})
			require.Error(t, err)
			now, err := p.to.Digest("victim/app", "latest")
			require.NoError(t, err)
			require.Equal(t, victim, now)
			for _, r := range p.to.Requests() {
				if r.Method != http.MethodGet && r.Method != http.MethodHead {
					require.Equal(t, destination, r.Repository, "%s %s", r.Method, r.Path)
				}
			}
		})
	}
}

// TestHostileReferrers: a list of referrers with an invalid digest is an error.
func TestHostileReferrers(t *testing.T) {
	p := newPair(t, registrytest.WithReferrersAPI(10))
	digest, err := p.from.PushImage(repository, "1", registrytest.Image{})
	require.NoError(t, err)
	_, err = p.mirror(t, "1")
	require.NoError(t, err)
	p.to.ResetRequests()
	p.from.Inject(registrytest.Fault{
		Match: registrytest.Kinds(registrytest.KindReferrers), Status: http.StatusOK, Header: http.Header{"Content-Type": {string(types.OCIImageIndex)}},
		Body: fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"size":2,"digest":"sha256:../../../../victim/app/manifests/latest"}]}`,
			types.OCIImageIndex, types.OCIManifestSchema1),
	})
	at := reference.MustDigest(digest)
	_, err = p.CopyReferrers(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), at, at, nil)
	require.ErrorIs(t, err, mirror.ErrReferrers)
	require.ErrorIs(t, err, registry.ErrBadManifest)
	nothingWritten(t, p)
}

// TestHostileDigestHeader: a header with an invalid digest is ignored.
func TestHostileDigestHeader(t *testing.T) {
	p := newPair(t)
	digest, err := p.from.PushImage(repository, "1", registrytest.Image{})
	require.NoError(t, err)
	p.from.Inject(registrytest.Fault{
		Match: registrytest.Kinds(registrytest.KindManifestHead), Status: http.StatusOK,
		Header: http.Header{"Docker-Content-Digest": {"sha256:../../../../victim/app/manifests/latest"}, "Content-Type": {string(types.OCIManifestSchema1)}},
	})
	d, err := p.Registry.Head(t.Context(), reference.MustRepository(p.source()), reference.MustTag("1"))
	require.NoError(t, err)
	require.Equal(t, digest, d.Digest.String())
	require.True(t, d.Pulled)
	_, err = p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), d, platform.Wanted{})
	require.NoError(t, err)
}

func nothingWritten(t *testing.T, p *pair) {
	t.Helper()
	for _, r := range append(p.to.Requests(), p.from.Requests()...) {
		require.NotContains(t, r.Path, "victim")
		require.Contains(t, []string{http.MethodGet, http.MethodHead}, r.Method, r.Path)
	}
}
