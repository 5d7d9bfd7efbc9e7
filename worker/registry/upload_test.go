package registry_test

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/transfer"
)

var (
	blobGets    = registrytest.Kinds(registrytest.KindBlobGet)
	blobUploads = registrytest.Kinds(registrytest.KindBlobUpload)
)

// between are two registries, and a blob at the first.
func between(t *testing.T, content []byte) (from, to *registrytest.Registry, c *registry.Client, blob registry.Descriptor) {
	t.Helper()
	from, to = registrytest.New(t), registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{User: "user", Password: "secret"}))
	digest, err := from.PushBlob(repository, content)
	require.NoError(t, err)
	c = registry.NewClient(registry.Options{Insecure: []string{from.Host(), to.Host()},
		Keychain: &fixed{Credential: containers.Credential{Username: "user", Password: "secret"}}})
	return from, to, c, registry.Descriptor{Digest: reference.MustDigest(digest), Size: int64(len(content))}
}

func TestCopyBlob(t *testing.T) {
	for name, content := range map[string][]byte{"small": []byte("{}"), "empty": nil, "large": bytes.Repeat([]byte("sbom "), 1<<20)} {
		t.Run(name, func(t *testing.T) {
			from, to, c, blob := between(t, content)
			for range 2 {
				require.NoError(t, transfer.New(c).Copy(t.Context(), reference.MustRepository(from.Host()+"/"+repository), reference.MustRepository(to.Host()+"/mirror"), blob))
			}
			got, err := c.Config(t.Context(), reference.MustRepository(to.Host()+"/mirror"), blob.Digest)
			if name != "large" { // more than a configuration may have
				require.NoError(t, err)
				require.Equal(t, string(content), string(got))
			}
			require.Equal(t, 1, from.Count(blobGets), "what is there is not asked of the source")
		})
	}
}

// TestCopyBlobFails with the registry that is to blame, and leaves nothing there.
func TestCopyBlobFails(t *testing.T) {
	for name, test := range map[string]struct {
		spoil  func(t *testing.T, from, to *registrytest.Registry, blob *registry.Descriptor)
		is     error
		blamed string
	}{
		"missing at the source": {is: registry.ErrNotFound, blamed: "get blob FROM",
			spoil: func(t *testing.T, from, _ *registrytest.Registry, blob *registry.Descriptor) {
				_, err := from.BreakBlob(repository, blob.Digest.String())
				require.NoError(t, err)
			}},
		"cut off at the source": {is: registry.ErrUnavailable, blamed: "get blob FROM",
			spoil: func(_ *testing.T, from, _ *registrytest.Registry, _ *registry.Descriptor) {
				from.Inject(registrytest.Fault{Match: blobGets, TruncateBody: true})
			}},
		"limited at the source": {is: registry.ErrLimited, blamed: "get blob FROM",
			spoil: func(_ *testing.T, from, _ *registrytest.Registry, _ *registry.Descriptor) {
				from.Inject(registrytest.Fault{Match: blobGets, Status: http.StatusTooManyRequests})
			}},
		"denied at the destination": {is: registry.ErrDenied, blamed: "put TO",
			spoil: func(_ *testing.T, _, to *registrytest.Registry, _ *registry.Descriptor) {
				to.Inject(registrytest.Fault{Match: blobUploads, Status: http.StatusForbidden})
			}},
		"no location": {is: registry.ErrUnexpected, blamed: "put TO",
			spoil: func(_ *testing.T, _, to *registrytest.Registry, _ *registry.Descriptor) {
				opens := func(r registrytest.Request) bool { return r.Method == http.MethodPost }
				to.Inject(registrytest.Fault{Match: opens, Status: http.StatusAccepted})
			}},
		"content of another digest": {is: registry.ErrDigestMismatch, blamed: "get blob FROM",
			spoil: func(_ *testing.T, from, _ *registrytest.Registry, blob *registry.Descriptor) {
				from.Inject(registrytest.Fault{Match: blobGets, Status: http.StatusOK, Body: string(bytes.Repeat([]byte("x"), int(blob.Size)))})
			}},
	} {
		t.Run(name, func(t *testing.T) {
			from, to, c, blob := between(t, []byte("what an image is made of"))
			test.spoil(t, from, to, &blob)
			source, destination := from.Host()+"/"+repository, to.Host()+"/mirror"
			err := transfer.New(c).Copy(t.Context(), reference.MustRepository(source), reference.MustRepository(destination), blob)
			require.ErrorIs(t, err, test.is)
			want := map[string]string{"get blob FROM": "get blob " + source, "put TO": "put " + destination}[test.blamed]
			require.ErrorContains(t, err, want+"@"+blob.Digest.String())
			_, err = c.Config(t.Context(), reference.MustRepository(destination), blob.Digest)
			require.ErrorIs(t, err, registry.ErrNotFound)
		})
	}
}

// TestCopyBlobInASessionThatEnds: the content is read again.
func TestCopyBlobInASessionThatEnds(t *testing.T) {
	from, to, c, blob := between(t, []byte("what an image is made of"))
	to.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindBlobUpload), Status: http.StatusUnauthorized, Times: 1})
	require.NoError(t, transfer.New(c).Copy(t.Context(), reference.MustRepository(from.Host()+"/"+repository), reference.MustRepository(to.Host()+"/mirror"), blob))
	require.Equal(t, 2, from.Count(blobGets))
}
