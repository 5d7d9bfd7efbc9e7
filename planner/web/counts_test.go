package web

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
)

// TestCounts: each page is complete without runs, with one, and with a thousand failures and
// repositories, of which it shows one part.
func TestCounts(t *testing.T) {
	t.Parallel()
	const many = 1000
	f := newFixture(t)
	served := serve(t, Config{}, f.site, quiet)
	for path, want := range map[string]string{"/": "Nothing has run", "/failures": "no failed images", "/runs": "Nothing has run", "/images": "No repository was planned in the last 30 days.", "/pruning": "No plan was made in the last 90 days."} {
		response, text := get(t, served.URL+path)
		require.Equal(t, http.StatusOK, response.StatusCode)
		require.Contains(t, text, want)
	}
	shown := browser(t)
	seesAll(t, shown, served.URL, "none")
	id := f.ran(mirror, 1, time.Hour, run.Tally{Total: 3, Copied: 3})
	for path, want := range map[string]string{"/": "fresh", "/runs": "1 run of the last 30 days", "/runs/" + id: "6: 6 copied"} {
		require.Eventually(t, func() bool { // what was read is shown for a second
			_, text := get(t, served.URL+path)
			return strings.Contains(text, want)
		}, 10*time.Second, 50*time.Millisecond)
	}
	f.proposes(prunable(1, 1), 100)
	seesAll(t, shown, served.URL, "one")
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(32)
	for n := range many {
		group.Go(func() error {
			repository := fmt.Sprintf("quay.io/osism/image-%04d", n)
			return f.failures.Add(ctx, mirror, failure.Record{Repository: repository, Registry: "quay.io", Run: id, Images: []failure.Image{{Source: repository + ":1", Destination: "d/x:1", Reason: "away"}}})
		})
	}
	require.NoError(t, group.Wait())
	response, text := get(t, served.URL+"/failures?page=20")
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Equal(t, failuresPage, strings.Count(text, "<article"))
	require.Contains(t, text, "Page 20 of 20")
	require.Less(t, len(text), 200<<10)
	_, text = get(t, served.URL+"/failures?q=image-0815")
	require.Contains(t, text, "with “image-0815”")
	require.Equal(t, 1, strings.Count(text, "<article"))
	group, ctx = errgroup.WithContext(t.Context())
	group.SetLimit(32)
	for n := range many {
		group.Go(func() error {
			repository := fmt.Sprintf("quay.io/osism/image-%04d", n)
			return f.catalog.Add(ctx, mirror, catalog.Repository{
				Source: reference.MustRepository(repository), Destination: reference.MustRepository(repository), Checked: time.Now(),
				Tags: []catalog.Tag{{Name: reference.MustTag(fmt.Sprint("v", n)), State: run.Copied, Checked: time.Now()}},
			})
		})
	}
	require.NoError(t, group.Wait())
	f.proposes(prunable(many, 4), 100)
	seesAll(t, shown, served.URL, "many")
	_, text = get(t, served.URL+"/pruning?page=20")
	require.Contains(t, text, "Page 20 of 20")
	require.Contains(t, text, "image-0999")
	require.Less(t, len(text), 200<<10)
	_, text = get(t, served.URL+"/images?page=10")
	require.Contains(t, text, "1\u202f000 repositories")
	require.Equal(t, repositoriesPage, strings.Count(text, `scope="row"`))
	require.Less(t, len(text), 200<<10)
	_, text = get(t, served.URL+"/images?q=V711&state=copied")
	require.Equal(t, 1, strings.Count(text, `scope="row"`))
	_, text = get(t, served.URL+"/images?state=failed")
	require.Contains(t, text, "No repository matches.")
	_, text = get(t, served.URL+"/images?repository=quay.io/osism/image-0711")
	require.Contains(t, text, "v711")
	for _, page := range []string{"0", "-1", "x", "99999999999999999999"} {
		response, text := get(t, served.URL+"/failures?page="+page)
		require.Equal(t, http.StatusBadRequest, response.StatusCode, "%s: %s", page, text)
	}
}

// TestOtherMirrors: the page of a run links to the runs of other mirrors, which do not have that run.
func TestOtherMirrors(t *testing.T) {
	f := newFixture(t)
	id := f.ran(mirror, 1, time.Hour, run.Tally{Total: 3, Copied: 3})
	f.ran(otherMirror, 1, time.Hour, run.Tally{Total: 3, Copied: 3})
	served := serve(t, Config{}, f.site, quiet)
	for path, other := range map[string]string{"/runs/" + id: "/runs", "/runs": "/runs", "/failures": "/failures", "/images/waiting": "/images/waiting"} {
		_, text := get(t, served.URL+path)
		link := other + "?mirror=" + otherMirror
		require.Contains(t, text, `href="`+link+`"`, path)
		response, _ := get(t, served.URL+link)
		require.Equal(t, http.StatusOK, response.StatusCode, link)
	}
}

// TestNotTheWholeList: the page says that the whole list is mirrored only if it is.
func TestNotTheWholeList(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	id := f.ranAs(run.Run{Name: mirror, Partial: true}, 0, time.Minute, run.Tally{Total: 1, Copied: 1})
	other := f.ranAs(run.Run{Name: otherMirror, FailedNamespaces: []string{"quay.io/team: 500"}}, 0, time.Minute, run.Tally{Total: 1, Copied: 1})
	_, text := get(t, serve(t, Config{}, f.site, quiet).URL+"/")
	require.NotContains(t, text, "Every image of the list is mirrored")
	require.Contains(t, text, `<a href="/runs/`+id+`?mirror=`+mirror+`">The last run</a> had only one chunk of the list.`)
	require.Contains(t, text, `1 namespace failed; <a href="/runs/`+other+`?mirror=`+otherMirror+`">see why</a>.`)
}
