package registry_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestRedirectedManifests: PUT and DELETE of a manifest follow redirects, without credentials, but
// not to another repository.
func TestRedirectedManifests(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		stored := registrytest.WithDirectory(t.TempDir())
		r := registrytest.New(t, stored, registrytest.WithTokenAuth(registrytest.TokenAuth{User: "bob", Password: "hunter2"}))
		other := registrytest.New(t, stored)
		digest, raw := pushImage(t, r, "1")
		c := registry.NewClient(registry.Options{Insecure: []string{r.Host(), other.Host()},
			Keychain: &fixed{Credential: containers.Credential{Username: "bob", Password: "hunter2"}}})
		at := reference.MustRepository(r.Host() + "/" + repository)
		writes := func(q registrytest.Request) bool {
			return (q.Method == http.MethodPut || q.Method == http.MethodDelete) && strings.Contains(q.Path, "/manifests/")
		}
		put := func() error {
			return c.Put(t.Context(), at, reference.MustTag("2"), registry.Manifest{Raw: raw, Digest: reference.MustDigest(digest), MediaType: "application/vnd.oci.image.manifest.v1+json"})
		}
		remove := func() error { return c.Delete(t.Context(), at, reference.MustDigest(digest)) }

		for name, location := range map[string]func(*url.URL) string{
			"a loop": func(asked *url.URL) string { return asked.RequestURI() },
			"a loop of two": func(asked *url.URL) string {
				return strings.TrimSuffix(r.URL(), "/") + asked.Path + "?" + asked.RawQuery
			},
			"another repository": func(asked *url.URL) string { return strings.Replace(asked.Path, repository, "victim/app", 1) },
			"an upload":          func(*url.URL) string { return "/v2/" + repository + "/blobs/uploads/" },
			"dots": func(asked *url.URL) string {
				return "/v2/" + repository + "/manifests/%2e%2e/%2e%2e/victim/app/manifests/1"
			},
			"plain HTTP": func(asked *url.URL) string { return "http://untrusted.example" + asked.Path },
		} {
			t.Run(name, func(t *testing.T) {
				defer r.Inject(registrytest.Fault{Match: writes, Status: status, Location: location})()
				r.ResetRequests()
				for _, err := range []error{put(), remove()} {
					failed := (*registry.Error)(nil)
					require.ErrorAs(t, err, &failed)
					require.Equal(t, at, failed.Repository)
				}
				require.Less(t, len(r.Requests()), 40)
				for _, request := range r.Requests() {
					require.NotContains(t, request.Path, "victim")
					require.NotEqual(t, registrytest.KindBlobUpload, request.Kind)
				}
			})
		}

		defer r.Inject(registrytest.Fault{Match: writes, Status: status, Location: func(asked *url.URL) string { return other.URL() + asked.RequestURI() }})()
		require.NoError(t, put())
		found, err := r.Digest(repository, "2")
		require.NoError(t, err)
		require.Equal(t, digest, found)
		require.NoError(t, remove())
		_, err = r.Digest(repository, "2")
		require.ErrorIs(t, err, registrytest.ErrNotFound)
		require.Len(t, other.Requests(), 2)
		for _, request := range other.Requests() {
			require.False(t, request.Login)
		}
	}
}
