package registry_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestReceipts: the digest or the location in the answer proves that a manifest is stored.
// Without both, it is looked up.
func TestReceipts(t *testing.T) {
	put := registrytest.Kinds(registrytest.KindManifestPut)
	for name, test := range map[string]struct {
		header http.Header
		asked  int
		is     error
	}{
		"digest":         {header: http.Header{"Docker-Content-Digest": {"OURS"}}},
		"another digest": {header: http.Header{"Docker-Content-Digest": {"OTHER"}}, is: registry.ErrDigestMismatch},
		"place":          {header: http.Header{"Location": {"https://registry.example/v2/a/manifests/OURS"}}},
		"another place":  {header: http.Header{"Location": {"/v2/a/manifests/OTHER"}}, is: registry.ErrDigestMismatch},
		"neither":        {header: http.Header{"Location": {"/v2/a/manifests/1"}}, asked: 1, is: registry.ErrPage},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t)
			digest, raw := pushImage(t, r, "1")
			for _, values := range test.header {
				values[0] = strings.NewReplacer("OURS", digest, "OTHER", reference.DigestOf(nil).String()).Replace(values[0])
			}
			r.Inject(registrytest.Fault{Match: put, Status: http.StatusCreated, Header: test.header})
			m := registry.Manifest{Raw: raw, MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: reference.MustDigest(digest)}
			err := insecure(r, nil).Put(t.Context(), reference.MustRepository(r.Host()+"/other"), reference.MustTag("1"), m)
			if test.is == nil {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, test.is)
			}
			require.Equal(t, test.asked, r.Count(registrytest.Kinds(registrytest.KindManifestHead)))
		})
	}
}
