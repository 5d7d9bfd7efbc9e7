package listing_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// robot is a Keychain with a robot account of Harbor.
type robot struct{ containers.Credential }

func (r robot) Find(context.Context, string) (containers.Credential, error) { return r.Credential, nil }
func (robot) Forget(string)                                                 {}

var robotAccount = robot{containers.Credential{Username: "robot$team+mirror", Password: "hunter2"}}

// harborPages returns the pages of a repository of a host that runs Harbor.
func harborPages(host, repository string, keychain registry.Keychain, insecure ...string) *listing.Pages {
	return listing.New(listing.Options{
		Registry:    registry.NewClient(registry.Options{Insecure: insecure, Keychain: keychain}),
		HarborHosts: []string{" " + strings.ToUpper(host)},
	}).Destination(reference.MustRepository(host + "/" + repository))
}

// readAll returns the tags of all pages, with their digests.
func readAll(t *testing.T, pages *listing.Pages) map[string]string {
	t.Helper()
	all := map[string]string{}
	for !pages.Ended() {
		tags, err := pages.Next(t.Context())
		require.NoError(t, err)
		for _, tag := range tags {
			all[tag.Name.String()] = tag.Digest.String()
		}
	}
	return all
}

// TestHarbor reads a repository whose name has slashes, with tags that share artifacts, and
// with manifests that have no tag.
func TestHarbor(t *testing.T) {
	const repository = "team/deep/er/tool"
	for name, options := range map[string][]registrytest.Option{
		"public": nil,
		"token":  {registrytest.WithTokenAuth(registrytest.TokenAuth{User: robotAccount.Username, Password: robotAccount.Password})},
		"basic":  {registrytest.WithBasicAuth(robotAccount.Username, robotAccount.Password)},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, append(options, registrytest.WithHarborAPI(registrytest.BulkAPI{}))...)
			want := map[string]string{}
			for i := range 200 {
				digest, err := r.PushImage(repository, fmt.Sprint(i), registrytest.Image{Version: fmt.Sprint(i)})
				require.NoError(t, err)
				want[fmt.Sprint(i)] = digest
				if i%10 == 0 {
					require.NoError(t, r.Tag(repository, fmt.Sprint("also-", i), digest))
					want[fmt.Sprint("also-", i)] = digest
					_, err := r.PushImage(repository, "", registrytest.Image{Version: fmt.Sprint("untagged", i)})
					require.NoError(t, err)
				}
			}
			require.Equal(t, want, readAll(t, harborPages(r.Host(), repository, robotAccount, r.Host())))
			require.Equal(t, 2, r.Count(bulk), "the second page is full and the last one")
			require.Empty(t, readAll(t, harborPages(r.Host(), "team/none", robotAccount, r.Host())))
		})
	}
}

// TestHarborRefusesOthers: there is no listing without the right credentials.
func TestHarborRefusesOthers(t *testing.T) {
	r := registrytest.New(t, registrytest.WithHarborAPI(registrytest.BulkAPI{}), registrytest.WithBasicAuth(robotAccount.Username, robotAccount.Password))
	for name, keychain := range map[string]registry.Keychain{
		"none": nil, "wrong": robot{containers.Credential{Username: "robot$team+mirror", Password: "hunter3"}},
		"identity token": robot{containers.Credential{IdentityToken: "hunter2"}},
	} {
		t.Run(name, func(t *testing.T) {
			pages := harborPages(r.Host(), "team/tool", keychain, r.Host())
			_, err := pages.Next(t.Context())
			require.ErrorIs(t, err, registry.ErrUnauthorized)
			require.NotContains(t, err.Error(), "hunter")
			require.True(t, pages.Ended())
		})
	}
}

// TestHarborCredentialsStay: they go to the registry itself, over TLS unless it is insecure.
func TestHarborCredentialsStay(t *testing.T) {
	asked := 0
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked++
		_, _, given := req.BasicAuth()
		require.False(t, given)
		fmt.Fprint(w, "[]")
	}))
	defer other.Close()
	elsewhere := strings.TrimPrefix(other.URL, "http://")
	_, err := harborPages(elsewhere, "team/tool", robotAccount).Next(t.Context())
	require.ErrorIs(t, err, registry.ErrPlainHTTP)
	require.Zero(t, asked)

	r := registrytest.New(t, registrytest.WithHarborAPI(registrytest.BulkAPI{}))
	r.Inject(registrytest.Fault{Match: bulk, Status: http.StatusFound, Header: http.Header{"Location": {other.URL + "/x"}}})
	_, err = harborPages(r.Host(), "team/tool", robotAccount, r.Host(), elsewhere).Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, asked)
}

// TestOddHarbor: an unexpected item ends the listing, or is left out.
func TestOddHarbor(t *testing.T) {
	one := `"sha256:` + strings.Repeat("1", 64) + `"`
	for name, test := range map[string]struct {
		body, link string
		tags       int
		is         error
	}{
		"null tags":        {`[{"digest":` + one + `,"tags":null}]`, "", 0, nil},
		"name of no tag":   {`[{"digest":` + one + `,"tags":[{"name":"../x"},{"name":"1"}]}]`, "", 1, nil},
		"no name":          {`[{"digest":` + one + `,"tags":[{"id":1}]}]`, "", 0, registry.ErrUnexpected},
		"no digest":        {`[{"tags":[{"name":"1"}]}]`, "", 0, registry.ErrUnexpected},
		"another digest":   {`[{"digest":"sha256:1","tags":[{"name":"1"}]}]`, "", 0, registry.ErrUnexpected},
		"tags are a text":  {`[{"digest":` + one + `,"tags":"1"}]`, "", 0, registry.ErrUnexpected},
		"an object":        {`{"errors":[]}`, "", 0, registry.ErrPage},
		"HTML":             {`<html></html>`, "", 0, registry.ErrPage},
		"nothing":          {``, "", 0, registry.ErrPage},
		"cut":              {`[{"digest":`, "", 0, registry.ErrPage},
		"Link without rel": {`[]`, "</x?page=2>", 0, registry.ErrPagination},
		"previous page":    {`[]`, `</x?page=2&q=tags=*>; rel="prev"`, 0, nil},
		"many artifacts":   {"[" + strings.Repeat("{},", 1000) + "{}]", "", 0, registry.ErrUnexpected},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, registrytest.WithHarborAPI(registrytest.BulkAPI{}))
			header := http.Header{}
			if test.link != "" {
				header.Set("Link", test.link)
			}
			r.Inject(registrytest.Fault{Match: bulk, Status: 200, Body: test.body, Header: header})
			pages := harborPages(r.Host(), "a/b", nil, r.Host())
			tags, err := pages.Next(t.Context())
			require.ErrorIs(t, err, test.is)
			require.Len(t, tags, test.tags)
			require.True(t, pages.Ended())
		})
	}
}

// TestEndlessHarbor: a page that links to itself ends the listing.
func TestEndlessHarbor(t *testing.T) {
	r := registrytest.New(t, registrytest.WithHarborAPI(registrytest.BulkAPI{}))
	r.Inject(registrytest.Fault{
		Match: bulk, Status: 200, Body: `[{"digest":"sha256:` + strings.Repeat("1", 64) + `","tags":[{"name":"1"}]}]`,
		Header: http.Header{"Link": {`</api/v2.0/projects/a/repositories/b/artifacts?page=1>; rel="next"`}},
	})
	pages := harborPages(r.Host(), "a/b", nil, r.Host())
	_, err := pages.Next(t.Context())
	require.NoError(t, err)
	_, err = pages.Next(t.Context())
	require.ErrorIs(t, err, registry.ErrPagination)
	require.True(t, pages.Ended())
}

// TestDestinations: only APIs that a destination is known to have are asked.
func TestDestinations(t *testing.T) {
	l := listing.New(listing.Options{QuayHosts: []string{"quay.example.com"}, HarborHosts: []string{"harbor.example.com"}})
	for repository, lists := range map[string]bool{
		"quay.io/a/b": true, "quay.example.com/a/b": true, "harbor.example.com/a/b": true,
		"docker.io/a/b": false, "registry.example.com/a/b": false, "harbor.example.com:8443/a/b": false,
	} {
		require.Equal(t, lists, l.Destination(reference.MustRepository(repository)) != nil, repository)
	}
}

// TestPassingFailures: a page can be asked for again after a failure that is not the API's.
func TestPassingFailures(t *testing.T) {
	var log bytes.Buffer
	for _, refused := range []error{&budget.SpentError{Registry: "a registry"}, context.Canceled} {
		pages := listing.New(listing.Options{
			Registry:    registry.NewClient(registry.Options{Transport: refusing{refused}}),
			HarborHosts: []string{"harbor.example.com"}, Log: slog.New(slog.NewTextHandler(&log, nil)),
		}).Destination(reference.MustRepository("harbor.example.com/a/b"))
		_, err := pages.Next(t.Context())
		require.ErrorIs(t, err, refused)
		require.True(t, listing.Passes(err))
		require.False(t, pages.Ended())
	}
	require.Empty(t, log.String())
}
