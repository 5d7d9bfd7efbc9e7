package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/osism/skopeo-worker/worker/prune"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// prunes are the tags that planner prune plans to delete.
func (s *site) prunes(arguments ...string) (names []string) {
	s.t.Helper()
	s.destination.ResetRequests()
	p := s.planner(append([]string{"prune", "-o", "json"}, arguments...)...)
	p.exits(0)
	require.Zero(s.t, s.destination.Count(func(r registrytest.Request) bool { return r.Method != http.MethodGet && r.Method != http.MethodHead }))
	var plan prune.Plan
	require.NoError(s.t, json.NewDecoder(strings.NewReader(p.stdout.String())).Decode(&plan))
	isPlan(s.t, p.stdout.String())
	for _, r := range plan.Repositories {
		for _, t := range r.Tags {
			names = append(names, r.Repository.Path()+":"+t.Tag.String())
		}
	}
	return names
}

// isPlan requires that a plan satisfies its schema.
func isPlan(t *testing.T, text string) {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile("../../docs/prune.schema.json")
	require.NoError(t, err)
	var plain any
	require.NoError(t, yaml.Unmarshal([]byte(text), &plain))
	data, err := json.Marshal(plain)
	require.NoError(t, err)
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	require.NoError(t, err)
	require.NoError(t, schema.Validate(value), text)
}

// TestPruneEdited: a plan that was edited is read strictly, with the line of each mistake.
func TestPruneEdited(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1", "1.25", "3", "4")
	s.write("osism/tool")
	s.planner("mirror").exits(0)
	require.NoError(t, s.source.Untag("osism/tool", "1"))
	require.NoError(t, s.source.Untag("osism/tool", "1.25"))
	s.planner("mirror").exits(0)
	file := filepath.Join(t.TempDir(), "plan.yaml")
	s.planner("prune", "--grace", "0s", "--max", "100%", "--max-per-repository", "100%", "-o", file).exits(0)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	isPlan(t, string(text))
	s.destination.ResetRequests()
	for from, says := range map[string]string{`- tag: "1.25"`: `expected a string, found "1.25"; write "1.25" with the quotes`, "bytes: ": `unknown key "by"`} {
		edited := strings.Replace(string(text), from, strings.NewReplacer(`"`, "", "bytes", "by").Replace(from), 1)
		require.NoError(t, os.WriteFile(file, []byte(edited), 0o600))
		line := 1 + strings.Count(string(text[:strings.Index(string(text), from)]), "\n")
		refused := s.planner("prune", "--execute", file).exits(2)
		require.Contains(t, refused, fmt.Sprintf("%s:%d: ", file, line))
		require.Contains(t, refused, says)
	}
	require.Zero(t, s.destination.Count(registrytest.Any))

	// One of two is taken out, with the lines about it.
	first, rest, _ := strings.Cut(string(text), `      - tag: "1"`)
	_, rest, _ = strings.Cut(rest, `      - tag: "1.25"`)
	require.NoError(t, os.WriteFile(file, []byte(first+`      - tag: "1.25"`+rest), 0o600))
	require.Contains(t, s.planner("prune", "--execute", file).exits(0), "1 tag deleted")
	tags, err := s.destination.Tags(prefix + "/osism/tool")
	require.NoError(t, err)
	require.Equal(t, []string{"1", "3", "4"}, tags)
}

// TestPruneAlone: if a digest stays under another tag, its tag goes from destinations that are
// known to delete a tag alone. At others, it stays.
func TestPruneAlone(t *testing.T) {
	t.Parallel()
	for variable, options := range map[string][]registrytest.Option{
		"HARBOR_HOSTS": {registrytest.WithDeletion(registrytest.DeletesLikeHarbor), registrytest.WithHarborAPI(registrytest.BulkAPI{})},
		"QUAY_HOSTS":   {registrytest.WithDeletion(registrytest.DeletesLikeQuay)},
	} {
		t.Run(variable, func(t *testing.T) {
			s := newSite(t)
			s.destination = registrytest.New(t, options...)
			s.env["MIRROR_DEST_URL"] = s.destination.Host() + "/" + prefix
			s.env["INSECURE_REGISTRIES"] = s.source.Host() + "," + s.destination.Host()
			digests := s.push("osism/tool", "1", "2")
			require.NoError(t, s.source.Tag("osism/tool", "stable", digests[0]))
			s.write("osism/tool")
			s.planner("mirror").exits(0)
			require.NoError(t, s.source.Untag("osism/tool", "stable"))
			s.planner("mirror").exits(0)
			all := []string{"--grace", "0s", "--max", "100%", "--max-per-repository", "100%"}
			require.Empty(t, s.prunes(all...))

			s.env[variable] = s.destination.Host()
			file := filepath.Join(t.TempDir(), "plan.yaml")
			s.planner(append([]string{"prune", "-o", file}, all...)...).exits(0)
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Contains(t, string(text), "alone: true")
			isPlan(t, string(text))
			require.Contains(t, s.planner("prune", "--execute", file).exits(0), "1 tag deleted")
			tags, err := s.destination.Tags(prefix + "/osism/tool")
			require.NoError(t, err)
			require.Equal(t, []string{"1", "2"}, tags)
			require.NoError(t, s.destination.Check(prefix+"/osism/tool", "1"))
			require.Contains(t, s.planner("prune", "--execute", file).exits(0), "1 tag deleted", "it is finished")
		})
	}
}

// TestPruneNamespace: the repositories of a namespace are named by the list.
func TestPruneNamespace(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1", "2")
	s.write("osism/*")
	s.planner("mirror").exits(0)
	s.planner("mirror").exits(0)
	all := []string{"--grace", "0s", "--max", "100%", "--max-per-repository", "100%"}
	require.Empty(t, s.prunes(all...))
	require.NoError(t, s.source.Untag("osism/tool", "2"))
	s.planner("mirror").exits(0)
	require.Equal(t, []string{prefix + "/osism/tool:2"}, s.prunes(all...))
}

// TestPrunePlan: what the source or the list has dropped is planned after the time of grace,
// within the caps; what was not mirrored never is.
func TestPrunePlan(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	require.Contains(t, s.planner("prune").exits(2), "nothing has run here")
	s.push("osism/tool", "1", "2", "3")
	s.push("osism/other", "1", "2")
	s.write("osism/tool", "osism/other")
	s.planner("mirror").exits(0)
	_, err := s.destination.PushImage(prefix+"/osism/tool", "stray", registrytest.Image{Version: "stray"})
	require.NoError(t, err)
	all := []string{"--grace", "0s", "--max", "100%", "--max-per-repository", "100%"}
	require.Empty(t, s.prunes(all...))

	require.NoError(t, s.source.Untag("osism/tool", "2"))
	require.Empty(t, s.prunes(all...), "no run has seen it")
	s.planner("mirror").exits(0)
	require.Empty(t, s.prunes(), "within the time of grace")
	require.Equal(t, []string{prefix + "/osism/tool:2"}, s.prunes(all...))
	require.Contains(t, s.planner("prune", "--grace", "0s").exits(1), "1 of 5 mirrored tags, more than --max 10%")
	require.Empty(t, s.prunes(append(all, "--keep", "2$")...))

	// Half of the list, by mistake.
	s.write("osism/other")
	require.Equal(t, []string{prefix + "/osism/tool:2"}, s.prunes(all...), "the rest was dropped by no plan")
	s.planner("mirror").exits(0)
	require.Empty(t, s.prunes())
	require.Contains(t, s.planner("prune", "--grace", "0s").exits(1), "3 of 5 mirrored tags")
	require.Equal(t, []string{prefix + "/osism/tool:1", prefix + "/osism/tool:2", prefix + "/osism/tool:3"}, s.prunes(all...))
	s.write("osism/tool", "osism/other")
	require.Equal(t, []string{prefix + "/osism/tool:2"}, s.prunes(all...), "the list has it again")
	s.writeList("containers: []\n")
	s.planner(append([]string{"prune"}, all...)...).exits(2)
	// The list of another mirror, by mistake.
	another := filepath.Join(t.TempDir(), "another.yml")
	require.NoError(t, os.WriteFile(another, []byte("containers: [nginx]\n"), 0o600))
	require.Contains(t, s.with("MIRROR_SOURCE_URL", another).planner("prune").exits(2), "mirrors "+s.list+" to ")
	s.write("osism/tool", "osism/other")
	s.source.Stop()
	require.Empty(t, s.prunes(all...), "the source does not answer")
}

// TestPruneFloor: if a source suddenly lists few tags, nothing that was dropped before is planned.
func TestPruneFloor(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1", "2", "3", "4")
	s.write("osism/tool")
	s.planner("mirror").exits(0)
	s.with("LIMIT", "1").planner("mirror").exits(0) // by mistake
	for _, tag := range []string{"1", "2", "3"} {
		require.NoError(t, s.source.Untag("osism/tool", tag))
	}
	all := []string{"prune", "--grace", "0s", "--max", "100%", "--max-per-repository", "100%"}
	said := s.planner(all...).exits(0)
	require.Contains(t, said, "too few tags")
	require.Contains(t, said, "Nothing to delete")
}

// TestPruneKeep: what an entry keeps stays, also when the entry is lost.
func TestPruneKeep(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "lts-1", "lts-2", "3", "4")
	s.push("osism/other", "lts-1", "2")
	other := "  - image: " + s.source.Host() + "/osism/other\n"
	entry := func(keep string) string { return "  - image: " + s.source.Host() + "/osism/tool\n" + keep }
	all := []string{"--grace", "0s", "--max", "100%", "--max-per-repository", "100%"}
	tagged := func(tags ...string) (names []string) {
		for _, tag := range tags {
			names = append(names, prefix+"/osism/"+tag)
		}
		return names
	}

	s.writeList("containers:\n" + entry("    keep: lts\n") + other)
	s.planner("mirror").exits(0)
	require.NoError(t, s.source.Untag("osism/tool", "lts-1"))
	require.NoError(t, s.source.Untag("osism/tool", "3"))
	require.NoError(t, s.source.Untag("osism/other", "lts-1"))
	s.planner("mirror").exits(0)
	require.Equal(t, tagged("other:lts-1", "tool:3"), s.prunes(all...))
	s.env["KEEP_TAGS"] = "4 lts"
	require.Equal(t, tagged("tool:3"), s.prunes(all...))
	delete(s.env, "KEEP_TAGS")

	s.writeList("containers:\n" + other) // by mistake
	s.planner("mirror").exits(0)
	require.Equal(t, tagged("other:lts-1", "tool:3", "tool:4"), s.prunes(all...))
	require.Equal(t, tagged("other:lts-1", "tool:3", "tool:4", "tool:lts-1", "tool:lts-2"), s.prunes(append(all, "--left-list")...))

	s.writeList("containers:\n" + entry("") + other)
	s.planner("mirror").exits(0)
	require.Equal(t, tagged("other:lts-1", "tool:3", "tool:lts-1"), s.prunes(all...), "the entry keeps it no more")
	s.writeList("containers:\n" + entry("    keep: '(?!a)'\n") + other)
	require.Contains(t, s.planner("prune").exits(2), "images.yml:3: keep[0]: ")
	require.Contains(t, s.planner("check").exits(2), "images.yml:3: keep[0]: ")
}

// TestPruneAndRuns: a run that begins while a plan is executed stops that, and then goes on; after
// a process that was killed, it waits. What is left of the plan is executed later.
func TestPruneAndRuns(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.worker()
	file := filepath.Join(t.TempDir(), "plan.yaml")
	for _, name := range []string{"a", "b"} {
		s.push("osism/"+name, "1", "2")
	}
	s.write("osism/a", "osism/b")
	s.planner("plan", "--wait").exits(0)
	for _, name := range []string{"a", "b"} {
		require.NoError(t, s.source.Untag("osism/"+name, "2"))
	}
	s.planner("plan", "--wait").exits(0)
	s.planner("prune", "--grace", "0s", "--max", "100%", "-o", file).exits(0)

	// within executes the plan until it has sent the deletion of a repository.
	within := func(name string, then func(execution *process)) {
		held := make(chan struct{})
		match := func(r registrytest.Request) bool {
			return strings.HasSuffix(r.Repository, "/"+name) && r.Method == http.MethodDelete
		}
		remove := s.destination.Inject(registrytest.Fault{Match: match, Gate: held})
		s.destination.ResetRequests()
		execution := s.planner("prune", "--execute", file)
		waitFor(t, s.destination, match)
		then(execution)
		remove()
		close(held)
	}
	within("a", func(execution *process) {
		plan := s.planner("plan", "--wait")
		require.Contains(t, execution.exits(4), "is not over")
		require.Contains(t, plan.exits(0), "Published run")
	})
	within("b", func(execution *process) {
		execution.kill()
		require.Contains(t, s.planner("plan", "--wait").exits(0), "the run is published when nothing is being deleted from its destination")
	})
	s.planner("prune", "--execute", file).exits(0)
	for _, name := range []string{"a", "b"} {
		_, err := s.destination.Digest(prefix+"/osism/"+name, "2")
		require.Error(t, err)
		_, err = s.destination.Digest(prefix+"/osism/"+name, "1")
		require.NoError(t, err)
	}
}

// TestPruneExecute: a plan is carried out once, however often and wherever it is executed, and a
// process that was killed is continued.
func TestPruneExecute(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.worker()
	file := filepath.Join(t.TempDir(), "plan.yaml")
	for _, name := range []string{"a", "b", "c"} {
		s.push("osism/"+name, "1", "2")
	}
	s.write("osism/a", "osism/b", "osism/c")
	s.planner("plan", "--wait").exits(0)
	for _, name := range []string{"a", "b", "c"} {
		require.NoError(t, s.source.Untag("osism/"+name, "2"))
	}
	s.planner("plan", "--wait").exits(0)
	s.planner("prune", "--grace", "0s", "--max", "100%", "-o", file).exits(0)
	_, err := s.destination.PushImage(prefix+"/osism/a", "stray", registrytest.Image{Version: "stray"})
	require.NoError(t, err)

	// Killed while the second repository is under way: its tag is deleted, and that was not
	// recorded.
	deletions := func(r registrytest.Request) bool { return r.Method == http.MethodDelete }
	s.destination.ResetRequests()
	held := make(chan struct{})
	var deleted atomic.Bool
	after := func(r registrytest.Request) bool {
		ofB := strings.HasSuffix(r.Repository, "/b")
		if ofB && deletions(r) {
			deleted.Store(true)
		}
		return ofB && r.Method == http.MethodHead && deleted.Load()
	}
	remove := s.destination.Inject(registrytest.Fault{Match: after, Gate: held})
	first := s.planner("prune", "--execute", file)
	waitFor(t, s.destination, after)
	first.kill()
	remove()
	close(held)
	again, other := s.planner("prune", "--execute", file), s.planner("prune", "--execute", file)
	require.Contains(t, again.exits(0)+other.exits(0), "tags deleted")
	for _, name := range []string{"a", "b", "c"} {
		_, err := s.destination.Digest(prefix+"/osism/"+name, "2")
		require.Error(t, err)
		_, err = s.destination.Digest(prefix+"/osism/"+name, "1")
		require.NoError(t, err)
		require.Equal(t, 1, s.destination.Count(func(r registrytest.Request) bool {
			return deletions(r) && strings.HasSuffix(r.Repository, "/"+name) && r.Status == 202
		}))
	}
	_, err = s.destination.Digest(prefix+"/osism/a", "stray")
	require.NoError(t, err)
	require.Empty(t, s.prunes("--grace", "0s"))
}

// TestPruneOnThePage: a plan is made, read and confirmed on the page, executed by planner serve, and
// continued by the next one after a kill.
func TestPruneOnThePage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, name := range []string{"a", "b", "c"} {
		s.push("osism/"+name, "1", "2")
	}
	s.write("osism/a", "osism/b", "osism/c")
	s = s.with("MIRROR_SCHEDULE", never)
	s.planner("mirror").exits(0)
	for _, name := range []string{"a", "b", "c"} {
		require.NoError(t, s.source.Untag("osism/"+name, "2"))
	}
	s.planner("mirror").exits(0)
	serve, page := s.serve()
	shows := func(text string) string {
		t.Helper()
		shown := ""
		require.Eventually(t, func() bool {
			shown = get(t, page+"/pruning")
			return strings.Contains(shown, text)
		}, patience, tick, text)
		return shown
	}
	require.Contains(t, post(t, page+"/actions/prune", url.Values{"grace": {"soon"}}), "No plan is made: grace: expected a time such as 30d or 12h")
	post(t, page+"/actions/prune", url.Values{"grace": {"0s"}})
	shows("It cannot be confirmed: the plan would delete too much: 3 of 6 mirrored tags, more than --max 10%")
	post(t, page+"/actions/prune", url.Values{"grace": {"0s"}, "max": {"100%"}})
	plan := prunePlan.FindStringSubmatch(shows("to be confirmed"))[1]

	require.Contains(t, s.planner("status").exits(0), "3 tags, to be confirmed on the page.")

	deletions := func(r registrytest.Request) bool { return r.Method == http.MethodDelete }
	ofB := func(r registrytest.Request) bool { return deletions(r) && strings.HasSuffix(r.Repository, "/b") }
	held := make(chan struct{})
	remove := s.destination.Inject(registrytest.Fault{Match: ofB, Gate: held})
	require.Contains(t, post(t, page+"/actions/execute", url.Values{"plan": {plan}, "tags": {"3"}}), "3 tags are being deleted.")
	waitFor(t, s.destination, ofB)
	require.Contains(t, shows("being executed"), "1 of 3 repositories done")
	response, err := http.PostForm(page+"/actions/execute", url.Values{"plan": {plan}, "tags": {"3"}})
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusConflict, response.StatusCode)
	serve.kill()
	require.Contains(t, serve.all.String(), "by=anonymous image="+s.destination.Host()+"/"+prefix+"/osism/a:2")
	remove()
	close(held)
	serve, page = s.serve()
	require.Contains(t, shows(`class="state done">executed`), "0 failed")
	status := s.planner("status").exits(0)
	require.Contains(t, status, "3 tags, executed.")
	require.Regexp(t, `by anonymous: \d tags? deleted, 0 skipped, \d gone before, 0 failed\.`, status)
	var described struct {
		Pruning struct{ Last prune.Last }
	}
	require.NoError(t, json.Unmarshal([]byte(s.planner("status", "-o", "json").exits(0)), &described))
	done := described.Pruning.Last.Outcome
	require.Equal(t, 3, done.Deleted+done.Gone, "a deletion that was cut off may have been done")
	require.Contains(t, get(t, page+"/metrics"), fmt.Sprintf(`skopeo_worker_pruned_tags{mirror="default",outcome="deleted"} %d`, done.Deleted))
	for _, name := range []string{"a", "b", "c"} {
		_, err := s.destination.Digest(prefix+"/osism/"+name, "2")
		require.Error(t, err)
		_, err = s.destination.Digest(prefix+"/osism/"+name, "1")
		require.NoError(t, err)
	}
	serve.signal(syscall.SIGTERM)
	serve.exits(0)
}

// TestPruneTermsOnThePage: a plan of the page keeps what it is to keep, and deletes what an entry kept
// before it left the list, when it is made and when it is executed.
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

// TestPruneInTheFleet: of two processes with the page, one executes a plan; it stops for a run, can
// be confirmed again after that, and is continued by the other process.
func TestPruneInTheFleet(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	s.worker()
	for _, name := range []string{"a", "b", "c"} {
		s.push("osism/"+name, "1", "2")
	}
	s.write("osism/a", "osism/b", "osism/c")
	s.planner("plan", "--wait").exits(0)
	for _, name := range []string{"a", "b", "c"} {
		require.NoError(t, s.source.Untag("osism/"+name, "2"))
	}
	s.planner("plan", "--wait").exits(0)
	first, here := s.serve()
	second, there := s.serve()
	shows := func(page, text string) string {
		t.Helper()
		shown := ""
		require.Eventually(t, func() bool {
			shown = get(t, page+"/pruning")
			return strings.Contains(shown, text)
		}, patience, tick, text)
		return shown
	}
	post(t, here+"/actions/prune", url.Values{"grace": {"0s"}, "max": {"100%"}})
	confirmation := url.Values{"plan": {prunePlan.FindStringSubmatch(shows(there, "to be confirmed"))[1]}, "tags": {"3"}}

	// hold holds the deletion in a repository.
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
	require.Contains(t, shows(there, "Stopped: "), "is not over")

	match, let = hold("b")
	post(t, there+"/actions/execute", confirmation)
	waitFor(t, s.destination, match)
	second.signal(syscall.SIGTERM)
	second.exits(0)
	let()
	require.Contains(t, shows(here, `class="state done">executed`), "0 failed")
	for _, name := range []string{"a", "b", "c"} {
		_, err := s.destination.Digest(prefix+"/osism/"+name, "2")
		require.Error(t, err)
		_, err = s.destination.Digest(prefix+"/osism/"+name, "1")
		require.NoError(t, err)
	}
	first.signal(syscall.SIGTERM)
	first.exits(0)
}
