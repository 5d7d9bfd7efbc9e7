package registry_test

import (
	"bytes"
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

// TestReceiptsOfBlobs: an answer to a PUT without a receipt may be that of a proxy, so the blob is looked up.
func TestReceiptsOfBlobs(t *testing.T) {
	content := []byte("a blob")
	digest := reference.DigestOf(content)
	for name, test := range map[string]struct {
		status int
		header http.Header
		asked  int
		is     error
	}{
		"digest":                     {status: http.StatusCreated, header: http.Header{"Docker-Content-Digest": {digest.String()}}},
		"digest with another status": {status: http.StatusOK, header: http.Header{"Docker-Content-Digest": {digest.String()}}},
		"place":                      {status: http.StatusCreated, header: http.Header{"Location": {"https://storage.example/blob"}}},
		"another digest":             {status: http.StatusCreated, header: http.Header{"Docker-Content-Digest": {reference.DigestOf(nil).String()}, "Location": {"/x"}}, asked: 1, is: registry.ErrPage},
		"place with another status":  {status: http.StatusAccepted, header: http.Header{"Location": {"/x"}}, asked: 1, is: registry.ErrPage},
		"neither":                    {status: http.StatusCreated, header: http.Header{}, asked: 1, is: registry.ErrPage},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t)
			to := reference.MustRepository(r.Host() + "/mirror")
			blob := registry.Descriptor{Digest: digest, Size: int64(len(content))}
			mend := r.Inject(registrytest.Fault{Match: blobUploads, Status: test.status, Header: test.header})
			err := insecure(r, nil).PutBlob(t.Context(), to, blob, bytes.NewReader(content))
			require.ErrorIs(t, err, test.is)
			require.Equal(t, test.asked, r.Count(registrytest.Kinds(registrytest.KindBlobHead)))
			mend()

			changes := func(_ *http.Request, a *registrytest.Answer) { a.Status, a.Header = test.status, test.header.Clone() }
			r.Inject(registrytest.Fault{Match: blobUploads, Change: changes})
			require.NoError(t, insecure(r, nil).PutBlob(t.Context(), to, blob, bytes.NewReader(content)), "it is there")
		})
	}
}
