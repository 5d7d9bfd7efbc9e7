package registry_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/transfer"
)

// pages are successful answers of captive portals, proxies and registries that have just
// started, and their descriptions.
var pages = map[string]struct {
	registrytest.Fault
	says string
}{
	"a portal": {registrytest.Fault{Status: 200, Header: http.Header{"Content-Type": {"text/html"}},
		Body: "\n<!DOCTYPE html><html><head><title>Guest\x1b network</title></head></html>"}, `answered 200 with the HTML page "Guest\x1b network"`},
	"a page without a title": {registrytest.Fault{Status: 200, Body: "\xef\xbb\xbf<html>starting</html>"}, "answered 200 with an HTML page"},
	"nothing":                {registrytest.Fault{Status: 200}, "answered 200 with nothing"},
	"no content":             {registrytest.Fault{Status: 204}, "answered 204 with nothing"},
	"half of JSON":           {registrytest.Fault{Status: 200, Body: `{"tags":["1"`}, "answered 200 with 12 bytes that are not JSON"},
	"other JSON":             {registrytest.Fault{Status: 200, Body: `{"message":"log in first"}`}, "answered 200 with JSON of another kind"},
	"a JSON list":            {registrytest.Fault{Status: 200, Body: `[]`}, "answered 200 with JSON of another kind"},
}

// TestPages: no request accepts a page as its answer, and the error describes the page.
func TestPages(t *testing.T) {
	head, get := registrytest.KindManifestHead, registrytest.KindManifestGet
	for asked, test := range map[string]struct {
		kinds []registrytest.Kind
		ask   func(context.Context, *registry.Client, string, registry.Manifest) error
		want  string
	}{
		"tags": {[]registrytest.Kind{registrytest.KindTags}, func(ctx context.Context, c *registry.Client, repository string, _ registry.Manifest) error {
			all, err := tags(ctx, c, repository)
			if len(all) > 0 {
				return nil
			}
			return err
		}, "a list of tags"},
		"look up a tag": {[]registrytest.Kind{head, get}, func(ctx context.Context, c *registry.Client, repository string, _ registry.Manifest) error {
			_, err := c.Head(ctx, reference.MustRepository(repository), reference.MustTag("1"))
			return err
		}, "a manifest"},
		"get a tag": {[]registrytest.Kind{get}, func(ctx context.Context, c *registry.Client, repository string, _ registry.Manifest) error {
			_, err := c.Get(ctx, reference.MustRepository(repository), reference.MustTag("1"))
			return err
		}, "a manifest"},
		"look up a digest": {[]registrytest.Kind{head, get}, func(ctx context.Context, c *registry.Client, repository string, m registry.Manifest) error {
			_, err := c.Head(ctx, reference.MustRepository(repository), m.Digest)
			return err
		}, "a manifest"},
		"get a digest": {[]registrytest.Kind{get}, func(ctx context.Context, c *registry.Client, repository string, m registry.Manifest) error {
			_, err := c.Get(ctx, reference.MustRepository(repository), m.Digest)
			return err
		}, "a manifest"},
		"put": {[]registrytest.Kind{registrytest.KindManifestPut}, func(ctx context.Context, c *registry.Client, repository string, m registry.Manifest) error {
			return c.Put(ctx, reference.MustRepository(repository), reference.MustTag("2"), m)
		}, "a receipt"},
	} {
		for name, page := range pages {
			t.Run(asked+"/"+name, func(t *testing.T) {
				t.Parallel()
				r := registrytest.New(t)
				digest, raw := pushImage(t, r, "1")
				c := insecure(r, nil)
				page.Match = registrytest.Kinds(test.kinds...)
				defer r.Inject(page.Fault)()
				err := test.ask(t.Context(), c, r.Host()+"/"+repository, registry.Manifest{Raw: raw, Digest: reference.MustDigest(digest), MediaType: "application/vnd.oci.image.manifest.v1+json"})
				require.ErrorIs(t, err, registry.ErrPage)
				require.ErrorContains(t, err, page.says+" instead of "+test.want)
				require.NotContains(t, err.Error(), "mismatch")
			})
		}
	}
}

// TestPutWithoutDigest: without a digest in the answer, the manifest is looked up.
func TestPutWithoutDigest(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNoContent} {
		r := registrytest.New(t)
		digest, raw := pushImage(t, r, "1")
		c := insecure(r, nil)
		repository := r.Host() + "/" + repository
		m := registry.Manifest{Raw: raw, Digest: reference.MustDigest(digest), MediaType: "application/vnd.oci.image.manifest.v1+json"}
		r.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindManifestPut), Status: status})
		require.NoError(t, c.Put(t.Context(), reference.MustRepository(repository), reference.MustTag("1"), m), "it is there")
		require.ErrorIs(t, c.Put(t.Context(), reference.MustRepository(repository), reference.MustTag("2"), m), registry.ErrPage)
		other, _ := pushImage(t, r, "2")
		require.NotEqual(t, other, digest)
		require.ErrorIs(t, c.Put(t.Context(), reference.MustRepository(repository), reference.MustTag("2"), m), registry.ErrPage, "another one is there")
	}
}

// TestPageInsteadOfBlob: a page is not accepted as a blob, nor as the answer to an upload.
func TestPageInsteadOfBlob(t *testing.T) {
	opens := func(r registrytest.Request) bool { return r.Method == http.MethodPost }
	for name, page := range map[string]registrytest.Fault{
		"a page":  {Status: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<html>wait</html>"},
		"nothing": {Status: 200},
	} {
		for at, match := range map[string]registrytest.Match{
			"get": blobGets, "upload": blobUploads, "open": opens, "head": registrytest.Kinds(registrytest.KindBlobHead),
		} {
			t.Run(name+"/"+at, func(t *testing.T) {
				t.Parallel()
				from, to, c, blob := between(t, []byte("what an image is made of"))
				struck := to
				if at == "get" {
					struck = from
				}
				struckBy := page
				struckBy.Match = match
				remove := struck.Inject(struckBy)
				err := transfer.New(c).Send(t.Context(), reference.MustRepository(from.Host()+"/"+repository), reference.MustRepository(to.Host()+"/mirror"), blob)
				if at == "head" {
					require.NoError(t, err, "it is uploaded")
				} else {
					require.ErrorIs(t, err, registry.ErrPage)
				}
				remove()
				require.NoError(t, transfer.New(c).Send(t.Context(), reference.MustRepository(from.Host()+"/"+repository), reference.MustRepository(to.Host()+"/mirror"), blob))
				got, err := c.Config(t.Context(), reference.MustRepository(to.Host()+"/mirror"), blob.Digest)
				require.NoError(t, err)
				require.Equal(t, "what an image is made of", string(got))
			})
		}
	}
}

// TestContentTypeOfJSON: JSON is accepted with any Content-Type.
func TestContentTypeOfJSON(t *testing.T) {
	r := registrytest.New(t)
	digest, raw := pushImage(t, r, "1")
	typed := registrytest.Fault{Match: registrytest.Kinds(registrytest.KindManifestGet, registrytest.KindManifestHead), Status: 200,
		Header: http.Header{"Content-Type": {"text/html; charset=utf-8"}}, Body: string(raw)}
	defer r.Inject(typed)()
	found, err := insecure(r, nil).Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
	require.NoError(t, err)
	require.Equal(t, digest, found.Digest.String())
}

// TestRedirectedPut: a redirect to a login page turns a PUT into a GET.
func TestRedirectedPut(t *testing.T) {
	portal := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("1", 64))
	}))
	defer portal.Close()
	host := strings.TrimPrefix(portal.URL, "http://")
	r := registrytest.New(t)
	digest, raw := pushImage(t, r, "1")
	r.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindManifestPut), Status: http.StatusFound,
		Header: http.Header{"Location": {portal.URL + "/login"}}})
	c := registry.NewClient(registry.Options{Insecure: []string{r.Host(), host}})
	err := c.Put(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("2"), registry.Manifest{Raw: raw, Digest: reference.MustDigest(digest), MediaType: "application/vnd.oci.image.manifest.v1+json"})
	require.ErrorIs(t, err, registry.ErrPage)
	require.ErrorContains(t, err, "answered 200 with a redirect to "+host+" instead of a receipt")
}

// TestReferrersDuringOutage: if all answers are pages, the registry may have the API.
func TestReferrersDuringOutage(t *testing.T) {
	r := registrytest.New(t, registrytest.WithReferrersAPI(0))
	digest, _ := pushImage(t, r, "1")
	referrer, err := r.PushReferrer(repository, digest, "a/b")
	require.NoError(t, err)
	c := insecure(r, nil)
	page := registrytest.Fault{Status: 200, Body: "<html>maintenance</html>"}
	everywhere := r.Inject(page)
	_, err = referrers(t.Context(), c, r.Host()+"/"+repository, digest)
	require.ErrorIs(t, err, registry.ErrPage)
	everywhere()
	page.Times, page.Match = 1, registrytest.Kinds(registrytest.KindReferrers)
	r.Inject(page)
	found, err := referrers(t.Context(), c, r.Host()+"/"+repository, digest)
	require.NoError(t, err)
	require.Equal(t, []string{referrer}, found)
}
