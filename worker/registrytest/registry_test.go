package registrytest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

const accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"

// do sends a request on its own connection.
func do(t *testing.T, r *registrytest.Registry, method, path string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.URL()+path, nil)
	require.NoError(t, err)
	req.Header.Set("Accept", accept)
	req.Close = true
	return http.DefaultClient.Do(req)
}

func get(t *testing.T, r *registrytest.Registry, path string) (*http.Response, string) {
	t.Helper()
	res, err := do(t, r, http.MethodGet, path)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

func put(t *testing.T, r *registrytest.Registry, path string, mediaType types.MediaType, body []byte) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, r.URL()+path, bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", string(mediaType))
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return res.StatusCode
}

func repository(t *testing.T, r *registrytest.Registry, path string) name.Repository {
	t.Helper()
	repo, err := name.NewRepository(r.Host()+"/"+path, name.Insecure)
	require.NoError(t, err)
	return repo
}

func TestRestartKeepsPortAndImages(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{
		"in memory": nil, "in a directory": {registrytest.WithDirectory(t.TempDir())},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, options...)
			_, err := r.PushImage("app", "1", registrytest.Image{})
			require.NoError(t, err)
			host := r.Host()

			r.Stop()
			// The socket closes as soon as the server no longer accepts on it.
			require.Eventually(t, func() bool {
				_, err := do(t, r, http.MethodGet, "/v2/")
				return errors.Is(err, syscall.ECONNREFUSED)
			}, 30*time.Second, 10*time.Millisecond)
			require.NoError(t, r.Restart())
			require.Error(t, r.Restart(), "it is running")

			require.Equal(t, host, r.Host())
			res, _ := get(t, r, "/v2/app/manifests/1")
			require.Equal(t, http.StatusOK, res.StatusCode)
		})
	}
}

func TestStorageMethods(t *testing.T) {
	r := registrytest.New(t)
	names, err := r.Repositories()
	require.NoError(t, err)
	require.Empty(t, names)
	_, err = r.Tags("app")
	require.ErrorIs(t, err, registrytest.ErrNotFound)
	_, err = r.Digest("app", "1")
	require.ErrorIs(t, err, registrytest.ErrNotFound)

	one, err := r.PushImage("app", "1", registrytest.Image{Version: "1"})
	require.NoError(t, err)
	again, err := registrytest.New(t).PushImage("app", "1", registrytest.Image{Version: "1"})
	require.NoError(t, err)
	require.Equal(t, one, again, "images are deterministic")
	two, err := r.PushImage("app", "2", registrytest.Image{Version: "2"})
	require.NoError(t, err)
	require.NotEqual(t, one, two)

	require.NoError(t, r.Tag("app", "latest", one))
	require.NoError(t, r.Tag("app", "latest", two))
	latest, err := r.Digest("app", "latest")
	require.NoError(t, err)
	require.Equal(t, two, latest)
	require.ErrorIs(t, r.Tag("app", "3", "sha256:"+repeat("0", 64)), registrytest.ErrNotFound)
	require.NoError(t, r.Untag("app", "2"))
	tags, err := r.Tags("app")
	require.NoError(t, err)
	require.Equal(t, []string{"1", "latest"}, tags)
	require.NoError(t, r.DeleteManifest("app", one))
	_, err = r.Manifest("app", one)
	require.ErrorIs(t, err, registrytest.ErrNotFound)
	require.Empty(t, r.Requests(), "nothing of this is recorded")
}

func repeat(s string, n int) string { return string(bytes.Repeat([]byte(s), n)) }

func TestNotifyAndWaitFor(t *testing.T) {
	r := registrytest.New(t)
	gate := make(chan struct{})
	remove := r.Inject(registrytest.Fault{Gate: gate})
	defer remove()
	arrived := r.Notify(registrytest.Kinds(registrytest.KindPing))
	answered := r.Notify(registrytest.Answered(http.StatusOK))
	done := make(chan error, 1)
	go func() {
		res, err := http.Get(r.URL() + "/v2/")
		if err == nil {
			err = res.Body.Close()
		}
		done <- err
	}()

	require.Zero(t, (<-arrived).Status)
	require.NoError(t, r.WaitFor(t.Context(), registrytest.Kinds(registrytest.KindPing)), "it has arrived already")
	require.Empty(t, answered)
	close(gate)
	require.Equal(t, registrytest.KindPing, (<-answered).Kind)
	require.NoError(t, <-done)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, r.WaitFor(ctx, registrytest.Kinds(registrytest.KindTags)), context.DeadlineExceeded)
}

func TestKinds(t *testing.T) {
	r := registrytest.New(t)
	digest := "sha256:" + repeat("0", 64)
	for _, test := range []struct {
		method, path string
		want         registrytest.Kind
		repository   string
		reference    string
	}{
		{"GET", "/v2/", registrytest.KindPing, "", ""},
		{"GET", "/token?scope=x", registrytest.KindToken, "", ""},
		{"GET", "/v2/a/tags/list?n=5", registrytest.KindTags, "a", ""},
		{"HEAD", "/v2/a/b/manifests/1.0", registrytest.KindManifestHead, "a/b", "1.0"},
		{"GET", "/v2/a/manifests/" + digest, registrytest.KindManifestGet, "a", digest},
		{"PUT", "/v2/a/manifests/1", registrytest.KindManifestPut, "a", "1"},
		{"DELETE", "/v2/a/manifests/1", registrytest.KindOther, "a", "1"},
		{"HEAD", "/v2/manifests/blobs/" + digest, registrytest.KindBlobHead, "manifests", digest},
		{"GET", "/v2/a/blobs/" + digest, registrytest.KindBlobGet, "a", digest},
		{"POST", "/v2/a/blobs/uploads/", registrytest.KindOther, "a", ""},
		{"PUT", "/v2/a/blobs/uploads/1?digest=" + digest, registrytest.KindBlobUpload, "a", digest},
		{"POST", "/v2/a/blobs/uploads/?mount=" + digest + "&from=b", registrytest.KindBlobMount, "a", digest},
		{"GET", "/v2/a/referrers/" + digest, registrytest.KindReferrers, "a", digest},
		{"GET", "/v2/_catalog", registrytest.KindRepositories, "", ""},
	} {
		r.ResetRequests()
		res, err := do(t, r, test.method, test.path)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		got := r.Requests()
		require.Len(t, got, 1)
		require.Equal(t, test.want, got[0].Kind, test.path)
		require.Equal(t, test.repository, got[0].Repository, test.path)
		require.Equal(t, test.reference, got[0].Reference, test.path)
		require.Equal(t, res.StatusCode, got[0].Status, test.path)
		require.Equal(t, accept, got[0].Accept)
	}
}

func TestPagination(t *testing.T) {
	r := registrytest.New(t, registrytest.WithTagPage(2))
	tags := []string{"1", "2", "3", "4", "5"}
	for _, tag := range tags {
		_, err := r.PushImage("real", tag, registrytest.Image{Version: tag})
		require.NoError(t, err)
	}
	require.NoError(t, r.AddSynthetic("synthetic", registrytest.Synthetic{Tags: tags}))
	for _, path := range []string{"real", "synthetic"} {
		r.ResetRequests()
		got, err := remote.List(repository(t, r, path), remote.WithContext(t.Context()))
		require.NoError(t, err)
		require.Equal(t, tags, got)
		require.GreaterOrEqual(t, r.Count(registrytest.Kinds(registrytest.KindTags)), 3)
		res, body := get(t, r, "/v2/"+path+"/tags/list?n=1&last=3")
		require.JSONEq(t, `{"name":"`+path+`","tags":["4"]}`, body)
		require.Contains(t, res.Header.Get("Link"), `rel="next"`)
	}
}

func TestWithoutDigestHeader(t *testing.T) {
	r := registrytest.New(t, registrytest.WithoutDigestHeader())
	dgst, err := r.PushImage("app", "1", registrytest.Image{})
	require.NoError(t, err)
	res, err := do(t, r, http.MethodHead, "/v2/app/manifests/1")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Empty(t, res.Header.Get("Docker-Content-Digest"))
	res, _ = get(t, r, "/v2/app/manifests/1")
	require.Equal(t, dgst, res.Header.Get("Docker-Content-Digest"))
}

func TestTokensWithGoContainerregistry(t *testing.T) {
	r := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{User: "user", Password: "secret"}))
	dgst, err := r.PushImage("app", "1", registrytest.Image{})
	require.NoError(t, err)
	tag := repository(t, r, "app").Tag("1")

	_, err = remote.Head(tag)
	require.Error(t, err, "strangers get no token")
	puller, err := remote.NewPuller(remote.WithAuth(&authn.Basic{Username: "user", Password: "secret"}))
	require.NoError(t, err)
	got, err := puller.Head(t.Context(), tag)
	require.NoError(t, err)
	require.Equal(t, dgst, got.Digest.String())

	r.ResetRequests()
	r.ExpireTokens()
	_, err = puller.Head(t.Context(), tag)
	require.NoError(t, err, "a client fetches a new token")
	require.Equal(t, 1, r.Count(registrytest.Kinds(registrytest.KindToken)))
}

func TestInternetHasRealNames(t *testing.T) {
	internet := registrytest.NewInternet(t, nil, nil)
	for image, r := range map[string]*registrytest.Registry{
		"quay.io/a/b:1": internet.Quay, "registry-1.docker.io/a/b:1": internet.Hub, "a/b:1": internet.Hub,
	} {
		digest, err := r.PushImage("a/b", "1", registrytest.Image{})
		require.NoError(t, err)
		ref, err := name.ParseReference(image)
		require.NoError(t, err)
		descriptor, err := remote.Get(ref, remote.WithTransport(internet.Transport))
		require.NoError(t, err)
		require.Equal(t, digest, descriptor.Digest.String())
		require.NotZero(t, r.Count(registrytest.Kinds(registrytest.KindToken)), "of the token service by its name")
	}
	client := http.Client{Transport: internet.Transport}
	for _, url := range []string{
		"https://quay.io/api/v1/repository/a/b/tag/", "https://hub.docker.com/v2/repositories/a/b/tags",
	} {
		res, err := client.Get(url)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
	_, err := client.Get("https://ghcr.io/v2/")
	require.ErrorContains(t, err, "does not have it")

	pem, err := os.ReadFile(internet.CAFile)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(pem))
	conn, err := tls.Dial("tcp", internet.Hub.Host(), &tls.Config{RootCAs: roots, ServerName: "hub.docker.com"})
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}
