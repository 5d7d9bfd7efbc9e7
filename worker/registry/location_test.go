package registry_test

import (
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

// TestLocations: a blob goes where the registry says, and nowhere that a front would make
// another place of.
func TestLocations(t *testing.T) {
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
				w.WriteHeader(http.StatusCreated)
			}))
			defer elsewhere.Close()
			host := elsewhere.Listener.Addr().String()
			from, to, _, blob := between(t, []byte("a blob"))
			c := registry.NewClient(registry.Options{Insecure: []string{from.Host(), to.Host(), host},
				Keychain: &fixed{Credential: containers.Credential{Username: "user", Password: "secret"}}})
			to.Inject(registrytest.Fault{Match: uploads, Status: http.StatusAccepted,
				Header: http.Header{"Location": {strings.ReplaceAll(location, "ELSEWHERE", host)}}})
			to.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindBlobUpload), Status: http.StatusCreated})
			err := transfer.New(c).Copy(t.Context(), reference.MustRepository(from.Host()+"/"+repository), reference.MustRepository(to.Host()+"/mirror"), blob)
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
