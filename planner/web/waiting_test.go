package web

import (
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
)

// released returns the released images at the broker, with the users who released them.
func (f *fixture) released() (images []string) {
	f.t.Helper()
	all, err := f.releases.List(f.t.Context())
	require.NoError(f.t, err)
	for _, r := range all {
		images = append(images, r.Image()+" by "+r.By)
	}
	return images
}

// TestRelease: a user releases a waiting digest once.
func TestRelease(t *testing.T) {
	f := newFixture(t)
	f.ran(mirror, 1, time.Hour, run.Tally{Total: 2, Copied: 1, Waiting: 1})
	f.ran(otherMirror, 1, time.Hour, run.Tally{Total: 1, Copied: 1})
	f.waits("1.0", "one", reference.DigestOf([]byte("old")), 60*time.Hour)
	f.waits("2.0", "two", reference.Digest{}, 30*time.Hour)
	var logged safeBuffer
	served := serve(t, Config{Addr: "0.0.0.0:0", TrustProxy: "X-User"}, f.site, slog.New(slog.NewTextHandler(&logged, nil))).URL
	as := func(user, method, path string, body url.Values) (*http.Response, string) {
		t.Helper()
		return answer(t, client(), method, served+path, body, "X-User", user)
	}
	sees := func(path string) string {
		t.Helper()
		response, text := as("ada", http.MethodGet, path, nil)
		require.Equal(t, http.StatusOK, response.StatusCode, text)
		return text
	}
	one, two := reference.DigestOf([]byte("one")).String(), reference.DigestOf([]byte("two")).String()
	require.Contains(t, sees("/"), `Every image of the list is mirrored, except <a href="/images/waiting?mirror=nightly">2 that wait for their minimum age</a>.`)
	require.Contains(t, sees("/images"), "2 images wait")
	for _, path := range []string{"/images/waiting", "/images?repository=" + young.String()} {
		text := sees(path)
		require.Regexp(t, `in 2 d (12|11) h`, text, path)
		require.Contains(t, text, `aria-label="Release quay.io/osism/young:1.0…"`, path)
		require.Contains(t, text, `aria-label="Release quay.io/osism/young:2.0…"`, path)
	}
	require.Contains(t, sees("/images/waiting?mirror=weekly"), "No image waits")

	text := sees("/actions/release?" + releaseOf("1.0", "one").Encode())
	for _, want := range []string{"Release quay.io/osism/young:1.0 before its minimum age?", one, reference.DigestOf([]byte("old")).String(), "in 2 d "} {
		require.Contains(t, text, want)
	}
	require.Empty(t, f.released(), "a link does nothing")

	// Both pages refuse to release a digest that does not wait as the user has seen it. Nothing is
	// stored.
	other := releaseOf("1.0", "one")
	other.Set("mirror", otherMirror)
	for _, given := range []url.Values{releaseOf("1.0", "two"), releaseOf("3.0", "one"), other} {
		for method, path := range map[string]string{http.MethodGet: "/actions/release?" + given.Encode(), http.MethodPost: "/actions/release"} {
			response, text := as("ada", method, path, given)
			require.Equal(t, http.StatusConflict, response.StatusCode, given)
			require.Contains(t, text, "The image does not wait: ")
			require.Contains(t, text, `href="/images?`)
		}
	}
	_, text = as("ada", http.MethodPost, "/actions/release", releaseOf("1.0", "two"))
	require.Contains(t, text, "quay.io/osism/young:1.0 has moved since you looked: it waits with digest "+one)
	for _, name := range []string{"repository", "tag", "digest"} {
		for _, bad := range []string{"", "x y", "../x", script, strings.Repeat("x", 300)} {
			given := releaseOf("1.0", "one")
			given.Set(name, bad)
			response, _ := as("ada", http.MethodPost, "/actions/release", given)
			require.Equal(t, http.StatusBadRequest, response.StatusCode, "%s=%s", name, bad)
		}
	}
	response, _ := answer(t, client(), http.MethodPost, served+"/actions/release", releaseOf("1.0", "one"), "X-User", "ada", "Sec-Fetch-Site", "cross-site")
	require.Equal(t, http.StatusForbidden, response.StatusCode)
	require.Empty(t, f.released())

	response, _ = as("ada", http.MethodPost, "/actions/release", releaseOf("1.0", "one"))
	require.Equal(t, http.StatusSeeOther, response.StatusCode)
	text = sees(response.Header.Get("Location"))
	require.Contains(t, text, "Released quay.io/osism/young:1.0@"+one+": the next run mirrors it.")
	require.Contains(t, text, "released by <bdi>ada</bdi>")
	require.NotContains(t, text, `aria-label="Release quay.io/osism/young:1.0…"`)
	require.Contains(t, text, `aria-label="Release quay.io/osism/young:2.0…"`)
	require.Equal(t, []string{"quay.io/osism/young:1.0@" + one + " by ada"}, f.released())
	require.Contains(t, logged.String(), `msg="audit: action done" action=release mirror=nightly repository=quay.io/osism/young tag=1.0 digest=`+one+` user=ada address=127.0.0.1:`)

	response, text = as("grace", http.MethodPost, "/actions/release", releaseOf("1.0", "one"))
	require.Equal(t, http.StatusConflict, response.StatusCode)
	require.Contains(t, text, "ada has released quay.io/osism/young:1.0@"+one)
	require.Contains(t, logged.String(), `msg="audit: action failed" action=release`)

	list := releaseOf("2.0", "two")
	list.Set("on", "list")
	response, _ = as("grace", http.MethodPost, "/actions/release", list)
	require.Equal(t, http.StatusSeeOther, response.StatusCode)
	require.True(t, strings.HasPrefix(response.Header.Get("Location"), "/images/waiting?note="))
	require.Contains(t, sees("/images/waiting"), "released by <bdi>grace</bdi>")
	require.Equal(t, "quay.io/osism/young:2.0@"+two+" by grace", f.released()[0])

	// The tag has moved again, so its new digest waits.
	f.waits("1.0", "newer", reference.Digest{}, 72*time.Hour)
	require.Contains(t, sees("/images/waiting"), `aria-label="Release quay.io/osism/young:1.0…"`)
	response, _ = as("ada", http.MethodPost, "/actions/release", releaseOf("1.0", "one"))
	require.Equal(t, http.StatusConflict, response.StatusCode)
}

// TestReleaseAPI: scripts list waiting images and release them.
func TestReleaseAPI(t *testing.T) {
	f := newFixture(t)
	f.ran(mirror, 1, time.Hour, run.Tally{Total: 1, Waiting: 1})
	f.waits("1.0", "one", reference.Digest{}, 60*time.Hour)
	at := serve(t, Config{}, f.site, quiet).URL + "/api/v1/mirrors/nightly/"
	_, schema := schemas(t)
	one := reference.DigestOf([]byte("one")).String()
	_, text := get(t, at+"waiting")
	valid(t, schema("Waiting"), text)
	require.Contains(t, text, `"tag":"1.0","digest":"`+one+`","until":"`)
	require.Contains(t, text, `"releases":[]`)
	response, text := send(t, at+"release", `{"repository":"quay.io/osism/young","tag":"1.0","digest":"`+reference.DigestOf([]byte("two")).String()+`"}`)
	require.Equal(t, http.StatusConflict, response.StatusCode)
	valid(t, schema("Error"), text)
	require.Contains(t, text, "has moved since you looked")
	response, _ = send(t, at+"release", `{"repository":"quay.io/osism/young","tag":"1.0","digest":"latest"}`)
	require.Equal(t, http.StatusBadRequest, response.StatusCode)
	require.Empty(t, f.released())
	response, text = send(t, at+"release", `{"repository":"quay.io/osism/young","tag":"1.0","digest":"`+one+`"}`)
	require.Equal(t, http.StatusOK, response.StatusCode, text)
	valid(t, schema("Outcome"), text)
	_, text = get(t, at+"waiting")
	valid(t, schema("Waiting"), text)
	require.Contains(t, text, `"by":"anonymous"`)
	response, _ = send(t, at+"release", `{"repository":"quay.io/osism/young","tag":"1.0","digest":"`+one+`"}`)
	require.Equal(t, http.StatusConflict, response.StatusCode)
}

// TestReleaseInBrowser: a user releases an image with the keyboard only, and sees that the next run
// mirrors it.
func TestReleaseInBrowser(t *testing.T) {
	f := newFixture(t)
	f.ran(mirror, 1, time.Hour, run.Tally{Total: 2, Waiting: 2})
	f.waits("1.0", "one", reference.Digest{}, 60*time.Hour)
	f.waits("2.0", "two", reference.Digest{}, 60*time.Hour)
	served := serve(t, Config{}, f.site, quiet)
	ctx := browser(t)
	do(t, ctx, chromedp.Navigate(served.URL+"/"), chromedp.Click(chromedp.CSS(`a[href="/images/waiting?mirror=nightly"]`)))
	shows(t, ctx, "2 images wait: their tags have had")
	do(t, ctx, chromedp.Focus(chromedp.CSS(`a[aria-label="Release quay.io/osism/young:2.0…"]`)), chromedp.KeyEvent("\r"))
	shows(t, ctx, "Release quay.io/osism/young:2.0 before its minimum age?")
	require.Empty(t, f.released(), "a link does nothing")
	do(t, ctx, chromedp.Focus(chromedp.CSS("button.main")), chromedp.KeyEvent("\r"))
	shows(t, ctx, "the next run mirrors it.")
	require.Equal(t, []string{"quay.io/osism/young:2.0@" + reference.DigestOf([]byte("two")).String() + " by anonymous"}, f.released())
	require.Equal(t, "/images/waiting", ask[string](t, ctx, `location.pathname`))
	require.Equal(t, []string{"Release quay.io/osism/young:1.0…"}, ask[[]string](t, ctx, `[...document.querySelectorAll('a[href^="/actions/release"]')].map(a => a.ariaLabel)`))

	// Another user releases the image first.
	do(t, ctx, chromedp.Navigate(served.URL+"/images?repository="+young.String()), chromedp.Click(chromedp.CSS(`a[aria-label="Release quay.io/osism/young:1.0…"]`)))
	shows(t, ctx, "before its minimum age?")
	response, _ := post(t, served.URL+"/actions/release", releaseOf("1.0", "one"))
	require.Equal(t, http.StatusSeeOther, response.StatusCode)
	do(t, ctx, chromedp.Click(chromedp.CSS("button.main")))
	shows(t, ctx, "The image does not wait: anonymous has released quay.io/osism/young:1.0@")
	do(t, ctx, chromedp.Click(chromedp.CSS("main a.button")))
	shows(t, ctx, "released by anonymous")
}

// TestKinds: each action has a unique name, and other names are refused.
func TestKinds(t *testing.T) {
	var names []string
	for _, k := range kinds {
		found, err := kindOf(k.name)
		require.NoError(t, err)
		require.Equal(t, k.name, found.name)
		names = append(names, k.name)
	}
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(names))), len(kinds))
	site := &Site{Mirror: mirror}
	for _, name := range []string{"", "Republish", "republish ", "releases", "execute/"} {
		_, err := parseAction(site, name, url.Values{"run": {run.NewID(time.Now())}})
		require.ErrorIs(t, err, errNotOffered, name)
	}
}
