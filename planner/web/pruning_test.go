package web

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/prune"
)

// pruningPage serves the page Pruning of a mirror that has run.
func (f *fixture) pruningPage(served, query string) string {
	f.t.Helper()
	response, text := get(f.t, served+"/pruning"+query)
	require.Equal(f.t, http.StatusOK, response.StatusCode, text)
	return text
}

// TestPruningPage: a user reads a plan, confirms it once by the number of its tags, and follows its
// execution.
func TestPruningPage(t *testing.T) {
	f := newFixture(t)
	f.ran(mirror, 1, time.Hour, run.Tally{Total: 3, Copied: 3})
	var logged safeBuffer
	served := serve(t, Config{}, f.site, slog.New(slog.NewTextHandler(&logged, nil))).URL
	require.Contains(t, f.pruningPage(served, ""), "No plan was made in the last 90 days.")
	response, _ := post(t, served+"/actions/prune", url.Values{"grace": {"60d"}, "max": {"5%"}, "max_per_repository": {"20%"}, "keep": {""}})
	require.Equal(t, http.StatusSeeOther, response.StatusCode)
	require.Equal(t, []string{"prune 60d 5% 20% [] false for anonymous"}, f.actions.all())

	f.site.Surveys = func() PruneSurvey { return PruneSurvey{Since: time.Now(), By: "ada", Done: 3, Repositories: 10} }
	text := f.pruningPage(served, "")
	require.Contains(t, text, "3 of 10 repositories read")
	require.Contains(t, text, "data-live")
	require.NotContains(t, text, "<form")
	require.NotContains(t, text, "No plan was made")
	f.site.Surveys = func() PruneSurvey { return PruneSurvey{Failed: time.Now(), Error: "away: " + script} }
	require.Contains(t, f.pruningPage(served, ""), "away: &lt;script&gt;")
	f.site.Surveys = func() PruneSurvey { return PruneSurvey{} }

	old := f.proposes(prunable(1, 2), 100)
	id := f.proposes(prunable(120, 3), 100)
	text = f.pruningPage(served, "")
	for _, want := range []string{
		"to be confirmed", "360 of 1\u202f440 mirrored tags (25.0 %) in 120 repositories", "30 d or longer", "100% of all, 50% of a repository",
		"registry.example.com/mirror/osism/image-0000", "3 of 12", "1.2.0", "the source does not list it", "180.0 MiB", "Page 1 of 2", "120 kept", `value="` + id + `"`,
	} {
		require.Contains(t, text, want)
	}
	require.NotContains(t, text, "data-live", "a page to type in does not change by itself")
	require.Contains(t, f.pruningPage(served, "?page=2"), "osism/image-0119")
	require.Contains(t, f.pruningPage(served, "?show=stays"), "registry.example.com/mirror/osism/image-0007:2.0")

	confirm := func(plan, tags string) (int, string) {
		response, text := post(t, served+"/actions/execute", url.Values{"plan": {plan}, "tags": {tags}}, "Sec-Fetch-Site", "same-origin")
		if response.StatusCode == http.StatusSeeOther {
			_, text = get(t, served+response.Header.Get("Location"))
		}
		return response.StatusCode, text
	}
	status, text := confirm(old, "2")
	require.Equal(t, http.StatusConflict, status)
	require.Contains(t, text, "The plan cannot be confirmed: another plan has replaced it; read that one.")
	for _, tags := range []string{"", "3", "all", "-360", "360.0"} {
		_, text = confirm(id, tags)
		require.Contains(t, text, "This is not the number of tags of the plan, which is 360.")
	}
	for _, plan := range []string{"", "x", strings.Repeat("x", 32), id + "0", "../" + id} {
		status, _ = confirm(plan, "360")
		require.Equal(t, http.StatusBadRequest, status, plan)
	}
	response, _ = post(t, served+"/actions/execute", url.Values{"plan": {id}, "tags": {"360"}}, "Sec-Fetch-Site", "cross-site")
	require.Equal(t, http.StatusForbidden, response.StatusCode)
	response, _ = post(t, served+"/actions/execute", url.Values{"plan": {id}, "tags": {"360"}, "mirror": {otherMirror}})
	require.Equal(t, http.StatusBadRequest, response.StatusCode)
	response, _ = get(t, served+"/actions/execute?plan="+id+"&tags=360")
	require.Equal(t, http.StatusBadRequest, response.StatusCode)
	response, _ = post(t, served+"/actions/prune", url.Values{"left_list": {"maybe"}})
	require.Equal(t, http.StatusBadRequest, response.StatusCode)
	require.Len(t, f.actions.all(), 1)

	// Of two confirmations at the same time, one succeeds.
	var statuses [4]int
	var group sync.WaitGroup
	for n := range statuses {
		group.Go(func() { statuses[n], _ = confirm(id, "360") })
	}
	group.Wait()
	require.ElementsMatch(t, []int{303, 409, 409, 409}, statuses[:])
	require.Equal(t, "execute 360 for anonymous", f.actions.all()[1])
	require.Contains(t, logged.String(), "user=anonymous address=127.0.0.1")
	require.Contains(t, logged.String(), "plan="+id+" tags=360")
	text = f.pruningPage(served, "")
	require.Contains(t, text, "being executed")
	require.Contains(t, text, "0 of 120 repositories done")
	require.Contains(t, text, "data-live")
	require.NotContains(t, text, "<form")

	require.NoError(t, f.prunes.End(t.Context(), mirror, id, errors.New("a run is not over "+script)))
	text = f.pruningPage(served, "")
	require.Contains(t, text, "Stopped: a run is not over &lt;script&gt;")
	require.Contains(t, text, "Delete 360 tags")
	status, _ = confirm(id, " 3 60 ")
	require.Equal(t, http.StatusSeeOther, status, "it goes on")

	lease, err := f.prunes.Take(t.Context(), mirror, prune.Holder{Plan: id, By: "ada", Process: "1"}, nil)
	require.NoError(t, err)
	require.NoError(t, lease.Finish(t.Context(), 0, prune.Outcome{Deleted: 3}))
	require.Contains(t, f.pruningPage(served, ""), "1 of 120 repositories done")
	require.NoError(t, lease.Release(t.Context(), &prune.Last{Plan: id, By: "ada", At: time.Now(), Finished: true, Outcome: prune.Outcome{Deleted: 357, Skipped: 3}}))
	text = f.pruningPage(served, "")
	require.Contains(t, text, "357 deleted, 3 skipped, 0 already gone, 0 failed")
	require.NotContains(t, text, "/actions/execute")
	status, _ = confirm(id, "360")
	require.Equal(t, http.StatusConflict, status)
}

// TestPruningOverCaps: a plan that exceeds its caps cannot be confirmed. The page shows the reason.
func TestPruningOverCaps(t *testing.T) {
	f := newFixture(t)
	f.ran(mirror, 1, time.Hour, run.Tally{Total: 3, Copied: 3})
	served := serve(t, Config{}, f.site, quiet).URL
	id := f.proposes(prunable(2, 5), 10)
	text := f.pruningPage(served, "")
	require.Contains(t, text, "It cannot be confirmed: the plan would delete too much: 10 of 40 mirrored tags, more than --max 10%")
	require.NotContains(t, text, "/actions/execute")
	response, _ := post(t, served+"/actions/execute", url.Values{"plan": {id}, "tags": {"10"}})
	require.Equal(t, http.StatusConflict, response.StatusCode)
	id = f.proposes(prunable(0, 0), 10)
	text = f.pruningPage(served, "")
	require.Contains(t, text, "Nothing to delete")
	require.Contains(t, text, "No tag has been dropped for 30 d or longer.")
	require.NotContains(t, text, "/actions/execute")
	response, _ = post(t, served+"/actions/execute", url.Values{"plan": {id}, "tags": {"0"}})
	require.Equal(t, http.StatusConflict, response.StatusCode)
	require.Empty(t, f.actions.all())
	all := prunable(0, 0)
	all.Left = prunable(1, 1).Left
	f.proposes(all, 10)
	require.Contains(t, f.pruningPage(served, ""), "No dropped tag can be deleted")
}

// TestPruningTerms: the page of a plan shows its terms, and the form passes terms on.
func TestPruningTerms(t *testing.T) {
	f := newFixture(t)
	f.ran(mirror, 1, time.Hour, run.Tally{Total: 3, Copied: 3})
	served := serve(t, Config{}, f.site, quiet).URL
	terms := url.Values{"grace": {"60d"}, "keep": {"lts-", script}, "left_list": {"true"}}
	_, text := get(t, served+"/actions/prune?"+terms.Encode())
	require.Contains(t, text, `<input type="hidden" name="keep" value="lts-">`)
	require.Contains(t, text, `<input type="hidden" name="left_list" value="true">`)
	_, _ = post(t, served+"/actions/prune", terms)
	require.Equal(t, []string{fmt.Sprintf("prune 60d   %q true for anonymous", []string{"lts-", script})}, f.actions.all())

	f.proposes(prunable(1, 1), 100)
	text = f.pruningPage(served, "")
	require.NotContains(t, text, "<dt>Keeps")
	require.NotContains(t, text, "<dt>Also deletes")
	require.NoError(t, f.prunes.Propose(t.Context(), prunable(1, 2), prune.Terms{Caps: prune.Caps{All: prune.MustShare(100)}, Keep: []string{"lts-", script}, LeftList: true}, "ada"))
	text = f.pruningPage(served, "")
	require.Contains(t, text, "<dt>Keeps tags that match</dt><dd><code>lts-</code> <code>&lt;script&gt;hostile()")
	require.Contains(t, text, "<dt>Also deletes</dt><dd>tags that entries kept before they left the list</dd>")
	_, schema := schemas(t)
	_, text = get(t, served+"/api/v1/mirrors/nightly/pruning")
	valid(t, schema("Pruning"), text)
	require.Contains(t, text, `"keep":["lts-",`)
	require.Contains(t, text, `"left_list":true`)
}
