package registry_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
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

// between returns two registries, and a blob in the first.
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
				require.NoError(t, transfer.New(c).Send(t.Context(), reference.MustRepository(from.Host()+"/"+repository), reference.MustRepository(to.Host()+"/mirror"), blob))
			}
			got, err := c.Config(t.Context(), reference.MustRepository(to.Host()+"/mirror"), blob.Digest)
			if name != "large" { // larger than a configuration may be
				require.NoError(t, err)
				require.Equal(t, string(content), string(got))
			}
			require.Equal(t, 1, from.Count(blobGets), "what is there is not asked of the source")
		})
	}
}

// TestCopyBlobFails: the error blames the right registry, and the upload is cancelled.
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
			err := transfer.New(c).Send(t.Context(), reference.MustRepository(source), reference.MustRepository(destination), blob)
			require.ErrorIs(t, err, test.is)
			want := map[string]string{"get blob FROM": "get blob " + source, "put TO": "put " + destination}[test.blamed]
			require.ErrorContains(t, err, want+"@"+blob.Digest.String())
			_, err = c.Config(t.Context(), reference.MustRepository(destination), blob.Digest)
			require.ErrorIs(t, err, registry.ErrNotFound)
		})
	}
}

// TestCopyBlobInExpiredSession: the content is read again from the start.
func TestCopyBlobInExpiredSession(t *testing.T) {
	from, to, c, blob := between(t, []byte("what an image is made of"))
	to.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindBlobUpload), Status: http.StatusUnauthorized, Times: 1})
	require.NoError(t, transfer.New(c).Send(t.Context(), reference.MustRepository(from.Host()+"/"+repository), reference.MustRepository(to.Host()+"/mirror"), blob))
	require.Equal(t, 2, from.Count(blobGets))
}

// TestLocations: a blob is sent to the location in the answer, unless a proxy that normalises
// paths would change that.
func TestLocations(t *testing.T) {
	t.Parallel()
	uploads := registrytest.All(registrytest.In("mirror"), func(r registrytest.Request) bool { return r.Method == http.MethodPost })
	for location, fine := range map[string]bool{
		"/v2/mirror/blobs/uploads/x?_state=a%2Bb": true,
		"x?_state=a%2Bb":                         true,
		"http://ELSEWHERE/any/path?_state=a%2Bb": true,
		"//ELSEWHERE/any/path?_state=a%2Bb":      true,
		"":                                       false,
		"/v2/mirror/blobs/uploads/../../../victim/app/manifests/latest?":    false,
		"../../../victim/app/blobs/uploads/x":                               false,
		"/v2/victim/app/blobs/uploads/x":                                    false,
		"/v2/victim/app/manifests/latest":                                   false,
		"http://ELSEWHERE/v2/victim/app/manifests/latest":                   false,
		"/v2/mirror/blobs/uploads/%2e%2e/%2E%2e/../victim/app/uploads/x":    false,
		"/v2/mirror/blobs/uploads/..%2f..%2f../victim/app/manifests/latest": false,
		"http://user:secret@ELSEWHERE/v2/mirror/blobs/uploads/x":            false,
		"https://untrusted.example/":                                        false,
		"http://untrusted.example/":                                         false,
		"file:///etc/passwd":                                                false,
		"mailto:somebody":                                                   false,
		"http://[::1":                                                       false,
		"/v2/mirror/blobs/uploads/x\x1b[31m":                                false,
	} {
		t.Run(location, func(t *testing.T) {
			var put []*http.Request
			elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				put = append(put, r)
				w.Header().Set("Docker-Content-Digest", r.URL.Query().Get("digest"))
				w.WriteHeader(http.StatusCreated)
			}))
			defer elsewhere.Close()
			host := elsewhere.Listener.Addr().String()
			from, to, _, blob := between(t, []byte("a blob"))
			c := registry.NewClient(registry.Options{Insecure: []string{from.Host(), to.Host(), host},
				Keychain: &fixed{Credential: containers.Credential{Username: "user", Password: "secret"}}})
			to.Inject(registrytest.Fault{Match: uploads, Status: http.StatusAccepted,
				Header: http.Header{"Location": {strings.ReplaceAll(location, "ELSEWHERE", host)}}})
			to.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindBlobUpload), Status: http.StatusCreated,
				Header: http.Header{"Docker-Content-Digest": {blob.Digest.String()}}})
			err := transfer.New(c).Send(t.Context(), reference.MustRepository(from.Host()+"/"+repository), reference.MustRepository(to.Host()+"/mirror"), blob)
			for _, r := range to.Requests() {
				require.NotContains(t, r.Path, "victim")
			}
			if !fine {
				require.Error(t, err)
				require.ErrorContains(t, err, "put "+to.Host()+"/mirror@"+blob.Digest.String())
				require.NotContains(t, err.Error(), "secret")
				require.NotContains(t, err.Error(), "\x1b")
				require.Empty(t, put)
				require.Zero(t, to.Count(registrytest.Kinds(registrytest.KindBlobUpload)))
				return
			}
			require.NoError(t, err)
			if strings.Contains(location, "ELSEWHERE") {
				require.Len(t, put, 1)
				require.Empty(t, put[0].Header.Get("Authorization"), "another host gets no credentials")
				require.Equal(t, url.Values{"_state": {"a+b"}, "digest": {blob.Digest.String()}}, put[0].URL.Query())
				return
			}
			require.Equal(t, 1, to.Count(registrytest.All(registrytest.Kinds(registrytest.KindBlobUpload), registrytest.Ref(blob.Digest.String()))))
		})
	}
}
