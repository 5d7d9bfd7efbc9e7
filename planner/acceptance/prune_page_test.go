package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/prune"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// showsPruning waits until the page Pruning contains the text, and returns the page.
func showsPruning(t *testing.T, page, text string) (shown string) {
	t.Helper()
	require.Eventually(t, func() bool {
		shown = get(t, page+"/pruning")
		return strings.Contains(shown, text)
	}, patience, tick, text)
	return shown
}

// TestPruneOnThePage: a user makes, reads and confirms a plan on the page, planner serve executes
// it, and the next planner serve continues after a kill.
func TestPruneOnThePage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s = s.with("MIRROR_SCHEDULE", never)
	s.drops(pruned, "mirror")
	serve, page := s.serve()
	require.Contains(t, post(t, page+"/actions/prune", url.Values{"grace": {"soon"}}), "No plan is made: grace: expected a time such as 30d or 12h")
	post(t, page+"/actions/prune", url.Values{"grace": {"0s"}})
	showsPruning(t, page, "It cannot be confirmed: the plan would delete too much: 3 of 6 mirrored tags, more than --max 10%")
	post(t, page+"/actions/prune", url.Values{"grace": {"0s"}, "max": {"100%"}})
	plan := prunePlan.FindStringSubmatch(showsPruning(t, page, "to be confirmed"))[1]

	require.Contains(t, s.planner("status").exits(0), "3 tags, to be confirmed on the page.")

	deletions := func(r registrytest.Request) bool { return r.Method == http.MethodDelete }
	ofB := func(r registrytest.Request) bool { return deletions(r) && strings.HasSuffix(r.Repository, "/b") }
	held := make(chan struct{})
	remove := s.destination.Inject(registrytest.Fault{Match: ofB, Gate: held})
	require.Contains(t, post(t, page+"/actions/execute", url.Values{"plan": {plan}, "tags": {"3"}}), "3 tags are being deleted.")
	waitFor(t, s.destination, ofB)
	require.Contains(t, showsPruning(t, page, "being executed"), "1 of 3 repositories done")
	response, err := http.PostForm(page+"/actions/execute", url.Values{"plan": {plan}, "tags": {"3"}})
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusConflict, response.StatusCode)
	serve.kill()
	require.Contains(t, serve.all.String(), "by=anonymous image="+s.destination.Host()+"/"+prefix+"/osism/a:2")
	remove()
	close(held)
	serve, page = s.serve()
	require.Contains(t, showsPruning(t, page, `class="state done">executed`), "0 failed")
	status := s.planner("status").exits(0)
	require.Contains(t, status, "3 tags, executed.")
	require.Regexp(t, `by anonymous: \d tags? deleted, 0 skipped, \d already gone, 0 failed\.`, status)
	var described struct {
		Pruning struct{ Last prune.Last }
	}
	require.NoError(t, json.Unmarshal([]byte(s.planner("status", "-o", "json").exits(0)), &described))
	done := described.Pruning.Last.Outcome
	require.Equal(t, 3, done.Deleted+done.Gone, "a deletion that was cut off may have been done")
	require.Contains(t, get(t, page+"/metrics"), fmt.Sprintf(`skopeo_worker_pruned_tags{mirror="default",outcome="deleted"} %d`, done.Deleted))
	s.requirePruned(pruned...)
	serve.signal(syscall.SIGTERM)
	serve.exits(0)
}

// TestPruneTermsOnThePage: with the terms of the form, a plan keeps the tags of --keep, and deletes
// tags that an entry kept before it left the list. This holds for making and for executing it.
func TestPruneTermsOnThePage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "lts-1", "3", "4")
	s.push("osism/other", "1")
	other := "  - image: " + s.source.Host() + "/osism/other\n"
	s.writeList("containers:\n  - image: " + s.source.Host() + "/osism/tool\n    keep: lts\n" + other)
	s = s.with("MIRROR_SCHEDULE", never)
	s.planner("mirror").exits(0)
	s.writeList("containers:\n" + other)
	s.planner("mirror").exits(0)
	serve, page := s.serve()
	require.Contains(t, post(t, page+"/actions/prune", url.Values{"keep": {"("}}), "No plan is made: ")
	post(t, page+"/actions/prune", url.Values{"grace": {"0s"}, "max": {"100%"}, "max_per_repository": {"100%"}, "keep": {"4"}, "left_list": {"true"}})
	shown := ""
	require.Eventually(t, func() bool {
		shown = get(t, page+"/pruning")
		return strings.Contains(shown, "to be confirmed")
	}, patience, tick)
	require.Contains(t, shown, "<code>4</code>")
	require.Contains(t, get(t, page+"/pruning?show=stays"), "it matches --keep")
	post(t, page+"/actions/execute", url.Values{"plan": {prunePlan.FindStringSubmatch(shown)[1]}, "tags": {"2"}})
	require.Eventually(t, func() bool {
		shown = get(t, page+"/pruning")
		return strings.Contains(shown, `class="state done">executed`)
	}, patience, tick)
	require.Contains(t, shown, "2 deleted, 0 skipped")
	for tag, stays := range map[string]bool{"lts-1": false, "3": false, "4": true} {
		_, err := s.destination.Digest(prefix+"/osism/tool", tag)
		require.Equal(t, stays, err == nil, tag)
	}
	serve.signal(syscall.SIGTERM)
	serve.exits(0)
}

var prunePlan = regexp.MustCompile(`name="plan" value="([0-9a-f]+)"`)

// TestPruneInTheFleet: of two processes with the page, one executes a plan. It stops for a run.
// After that, the plan can be confirmed again, and the other process continues it.
func TestPruneInTheFleet(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.worker()
	s.drops(pruned, "plan", "--wait")
	first, here := s.serve()
	second, there := s.serve()
	post(t, here+"/actions/prune", url.Values{"grace": {"0s"}, "max": {"100%"}})
	confirmation := url.Values{"plan": {prunePlan.FindStringSubmatch(showsPruning(t, there, "to be confirmed"))[1]}, "tags": {"3"}}

	// hold delays the deletion in a repository.
	hold := func(name string) (match registrytest.Match, let func()) {
		held := make(chan struct{})
		match = func(r registrytest.Request) bool {
			return r.Method == http.MethodDelete && strings.HasSuffix(r.Repository, "/"+name)
		}
		remove := s.destination.Inject(registrytest.Fault{Match: match, Gate: held})
		return match, func() {
			remove()
			close(held)
		}
	}
	match, let := hold("a")
	statuses := make(chan int, 2)
	for _, page := range []string{here, there} {
		go func() {
			client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			response, err := client.PostForm(page+"/actions/execute", confirmation)
			if err == nil {
				_ = response.Body.Close()
				statuses <- response.StatusCode
			} else {
				statuses <- 0
			}
		}()
	}
	require.ElementsMatch(t, []int{http.StatusSeeOther, http.StatusConflict}, []int{<-statuses, <-statuses})
	waitFor(t, s.destination, match)
	s.planner("plan", "--wait").exits(0)
	let()
	require.Contains(t, showsPruning(t, there, "Stopped: "), "is not over")

	match, let = hold("b")
	post(t, there+"/actions/execute", confirmation)
	waitFor(t, s.destination, match)
	second.signal(syscall.SIGTERM)
	second.exits(0)
	let()
	require.Contains(t, showsPruning(t, here, `class="state done">executed`), "0 failed")
	s.requirePruned(pruned...)
	first.signal(syscall.SIGTERM)
	first.exits(0)
}
