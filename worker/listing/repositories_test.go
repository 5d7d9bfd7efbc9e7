package listing_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

var repositories = registrytest.Kinds(registrytest.KindRepositories)

func namespace(t *testing.T, text string) reference.Namespace {
	t.Helper()
	n, err := reference.ParseNamespace(text)
	require.NoError(t, err)
	return n
}

func texts(found []reference.Repository) (texts []string) {
	for _, r := range found {
		texts = append(texts, r.String())
	}
	return texts
}

// TestRepositories of Docker Hub and Quay: of one namespace, on several pages.
func TestRepositories(t *testing.T) {
	quirks := registrytest.BulkAPI{PageLimit: 2}
	s := start(t, quirks, quirks)
	for r, host := range map[*registrytest.Registry]string{s.Quay: "quay.io", s.Hub: "docker.io"} {
		want := []string{}
		for i := range 5 {
			_, err := r.PushImage(fmt.Sprint("team/tool", i), "1", registrytest.Image{})
			require.NoError(t, err)
			want = append(want, fmt.Sprint(host, "/team/tool", i))
		}
		_, err := r.PushImage("teamwork/other", "1", registrytest.Image{})
		require.NoError(t, err)
		r.ResetRequests()
		found, err := s.Repositories(t.Context(), namespace(t, host+"/team/*"))
		require.NoError(t, err)
		require.Equal(t, want, texts(found.Found))
		require.Empty(t, found.Invalid)
		require.Equal(t, 3, r.Count(repositories))

		_, err = s.Repositories(t.Context(), namespace(t, host+"/team/deeper/*"))
		require.ErrorIs(t, err, listing.ErrNoNamespace)
		require.EqualError(t, err, "there is no such namespace: "+host+"/team/deeper/*; write "+host+"/NAMESPACE/*")

		// A list that breaks off is not the whole list.
		remove := r.Inject(registrytest.Fault{Match: registrytest.All(repositories, second(r)), Status: http.StatusNotFound})
		_, err = s.Repositories(t.Context(), namespace(t, host+"/team/*"))
		require.ErrorIs(t, err, registry.ErrNotFound)
		remove()

		r.Inject(registrytest.Fault{Match: repositories, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"7"}}})
		_, err = s.Repositories(t.Context(), namespace(t, host+"/team/*"))
		require.ErrorIs(t, err, registry.ErrLimited)
		require.ErrorContains(t, err, "list repositories of "+host)
	}
}

// second matches each listing of repositories but the first from now on.
func second(r *registrytest.Registry) registrytest.Match {
	before := r.Count(repositories)
	return func(registrytest.Request) bool { return r.Count(repositories) > before+1 }
}

// TestRepositoriesOfARegistry: by _catalog, and of Harbor by its own API.
func TestRepositoriesOfARegistry(t *testing.T) {
	for name, c := range map[string]struct {
		options []registrytest.Option
		harbor  bool
	}{
		"catalog":              {},
		"catalog with a token": {options: []registrytest.Option{registrytest.WithTokenAuth(registrytest.TokenAuth{User: "bob", Password: "hunter2"})}},
		"harbor":               {options: []registrytest.Option{registrytest.WithHarborAPI(registrytest.BulkAPI{PageLimit: 2})}, harbor: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, c.options...)
			var harbors []string
			if c.harbor {
				harbors = []string{r.Host()}
			}
			for _, repository := range []string{"team/a", "team/b/c", "team/b/d", "teamwork/e", "f"} {
				_, err := r.PushImage(repository, "1", registrytest.Image{})
				require.NoError(t, err)
			}
			l := listing.New(listing.Options{
				Registry: registry.NewClient(registry.Options{Insecure: []string{r.Host()}, Keychain: keychain{}}), HarborHosts: harbors,
			})
			names := func(text string) string {
				t.Helper()
				found, err := l.Repositories(t.Context(), namespace(t, r.Host()+text))
				require.NoError(t, err)
				return strings.ReplaceAll(strings.Join(texts(found.Found), " "), r.Host()+"/", "")
			}
			require.Equal(t, "team/a team/b/c team/b/d", names("/team/*"))
			require.Equal(t, "team/b/c team/b/d", names("/team/b/*"))
			require.Empty(t, names("/none/*"))
			if !c.harbor {
				require.Equal(t, "f team/a team/b/c team/b/d teamwork/e", names("/*"))
			}
		})
	}
}

// TestHostileRepositories: names that no repository can have do not leave the namespace, and
// are named; a list without an end ends.
func TestHostileRepositories(t *testing.T) {
	r := registrytest.New(t)
	l := listing.New(listing.Options{Registry: registry.NewClient(registry.Options{Insecure: []string{r.Host()}})})
	answer := func(body string, header http.Header) (listing.Repositories, error) {
		remove := r.Inject(registrytest.Fault{Match: repositories, Status: http.StatusOK, Body: body, Header: header})
		defer remove()
		return l.Repositories(t.Context(), namespace(t, r.Host()+"/team/*"))
	}
	found, err := answer(`{"repositories":["team/a","team/../../etc","team/<script>","team/A","teamwork/B","other/x","team/a",""]}`, nil)
	require.NoError(t, err)
	require.Equal(t, []string{r.Host() + "/team/a"}, texts(found.Found))
	require.Equal(t, []string{"team/../../etc", "team/<script>", "team/A"}, found.Invalid)
	_, err = answer(`{"repositories":["team/a"]}`, http.Header{"Link": {`</v2/_catalog?last=team%2Fa&n=1000>; rel="next"`}})
	require.ErrorIs(t, err, registry.ErrPagination)
	for _, body := range []string{`<html>`, `{"tags":[]}`, `{"repositories":{}}`, `[]`} {
		_, err = answer(body, nil)
		require.ErrorIs(t, err, registry.ErrPage, body)
	}
	found, err = answer(`{"repositories":[]}`, nil)
	require.NoError(t, err)
	require.Empty(t, found.Found)
}
