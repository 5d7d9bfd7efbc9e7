package acceptance

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/run"
)

// never is a schedule whose next time is after any test. A mirror without runs is still planned at
// once.
const never = "0 0 29 2 *"

var pageURL = regexp.MustCompile(`serving the page" url=(http://\S+)/`)

// serve starts planner serve, waits until it runs, and returns the address of its page.
func (s *site) serve() (p *process, url string) {
	s.t.Helper()
	p = s.with("UI_ADDR", "127.0.0.1:0").planner("serve")
	p.says("planner serve is running")
	return p, pageURL.FindStringSubmatch(p.all.String())[1]
}

// get returns a page.
func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode, string(body))
	return string(body)
}

// post confirms an action, and returns the page that follows.
func post(t *testing.T, url string, values url.Values) string {
	t.Helper()
	response, err := http.PostForm(url, values)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode, string(body))
	return string(body)
}

// TestServeOnOneMachine: planner serve mirrors by itself. Other commands and its page show and
// control it. It ends on SIGTERM, and continues its run at the next start.
func TestServeOnOneMachine(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1", "2")
	s.write("osism/tool", "osism/missing")
	s = s.with("MIRROR_SCHEDULE", never)
	serve, page := s.serve()
	require.Eventually(t, func() bool { return strings.Contains(get(t, page), "failing") }, patience, tick)
	s.becomes("", run.StateFailed)
	s.requireMirrored("osism/tool")
	require.Len(t, s.failed(), 1)
	require.Contains(t, get(t, page+"/failures"), s.source.Host()+"/osism/missing")
	require.Contains(t, get(t, page+"/runs"), "/runs/"+s.status().Run)
	require.Contains(t, get(t, page+"/runs/"+s.status().Run), "done, with failures")
	require.Contains(t, get(t, page+"/images"), s.source.Host()+"/osism/tool")
	require.Contains(t, get(t, page+"/images?state=unlisted"), s.source.Host()+"/osism/missing")
	require.Contains(t, get(t, page+"/images?repository="+s.source.Host()+"/osism/missing"), "repository name not known to registry")
	require.Contains(t, get(t, page+"/images?repository="+s.source.Host()+"/osism/tool"), "copied")
	require.Contains(t, get(t, page+"/metrics"), "skopeo_worker_broker_up 1\n")
	get(t, page+"/readyz")

	changed := s.planner("changes", "-o", "json")
	changed.exits(0)
	var report change.Report
	require.NoError(t, json.Unmarshal([]byte(changed.stdout.String()), &report))
	require.Equal(t, s.status().Run, report.Run)
	require.Len(t, report.Changes, 2)
	require.Equal(t, change.New, report.Changes[0].Kind)
	require.Equal(t, s.source.Host()+"/osism/tool:1", report.Changes[0].Image)
	digest, err := s.source.Digest("osism/tool", "1")
	require.NoError(t, err)
	require.Equal(t, digest, report.Changes[0].To)
	require.Contains(t, serve.all.String(), `msg="mirrored a new tag" image=`+s.source.Host()+"/osism/tool:1 ")

	// A command republishes, and the running process mirrors.
	s.push("osism/missing", "1")
	s.becomes(s.republish("--all"), run.StateDone)
	s.requireMirrored("osism/missing")
	require.Empty(t, s.failed())

	// The page republishes.
	s.write("osism/tool", "osism/missing", "osism/later")
	require.Contains(t, post(t, page+"/actions/plan", nil), "Published run")
	require.Eventually(t, func() bool { return len(s.failed()) == 1 }, patience, asking)
	s.push("osism/later", "1")
	done := post(t, page+"/actions/republish", url.Values{"repository": {s.source.Host() + "/osism/later"}})
	require.Contains(t, done, "Republished 1 image in 1 chunk as run")
	_, republished, _ := strings.Cut(done, "as run")
	s.becomes(runID(t, republished), run.StateDone)
	s.requireMirrored("osism/later")
	serve.says(`msg="audit: action done" action=republish`)

	// The next process continues a run that is under way.
	s.push("osism/tool", "3")
	open := s.gate(blobs)
	require.Contains(t, post(t, page+"/actions/plan", nil), "Published run")
	s.waitFor(blobs)
	require.Contains(t, post(t, page+"/actions/plan", nil), "it continues")
	serve.signal(syscall.SIGTERM)
	open()
	require.Contains(t, serve.exits(0), "planner serve is running")
	serve, page = s.serve()
	require.Eventually(t, func() bool { return strings.Contains(get(t, page), "fresh") }, patience, tick)
	s.requireMirrored("osism/tool")
	require.Contains(t, s.planner("changes").exits(0), "1 new.")
	require.Contains(t, get(t, page+"/runs/"+s.status().Run), "osism/tool:3")
	serve.signal(syscall.SIGTERM)
	serve.exits(0)
}

// TestRepublishOneImage republishes one image with the command, the page and the API. The other
// failures stay.
func TestRepublishOneImage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.write("osism/tool:1", "osism/tool:2", "osism/tool:3", "osism/tool:4")
	s = s.with("MIRROR_SCHEDULE", never)
	serve, page := s.serve()
	require.Eventually(t, func() bool { return strings.Contains(get(t, page), "failing") }, patience, tick)
	s.becomes("", run.StateFailed)
	tool := s.source.Host() + "/osism/tool"
	s.push("osism/tool", "1", "2", "3")
	before := s.source.Pulls()
	s.becomes(s.republish(tool+":2"), run.StateDone)
	require.Contains(t, post(t, page+"/actions/republish", url.Values{"image": {tool + ":3"}}), "Republished 1 image in 1 chunk as run")
	s.becomes(s.status().Run, run.StateDone)
	response, err := http.Post(page+"/api/v1/mirrors/default/republish", "application/json", strings.NewReader(`{"image":"`+tool+`:1"}`))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
	s.becomes(s.status().Run, run.StateDone)
	s.requireMirrored("osism/tool")
	require.Equal(t, 3, s.source.Pulls()-before, "only what was named is tried")
	failed := s.failed()
	require.Len(t, failed, 1)
	require.Len(t, failed[0].Images, 1)
	require.Equal(t, tool+":4", failed[0].Images[0].Source)
	require.Contains(t, s.planner("republish", tool+":1").exits(2), "no failures of "+tool+":1 are recorded")
	require.Contains(t, post(t, page+"/actions/republish", url.Values{"image": {tool + ":1"}}), "Not done.")
	serve.signal(syscall.SIGTERM)
	serve.exits(0)
}

// TestVanished: a tag that the source no longer lists is reported once, and stays at the
// destination.
func TestVanished(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	pinned := s.push("osism/pinned", "1")[0]
	s.push("osism/tool", "1", "2")
	s.write("osism/tool", "osism/pinned", "osism/pinned@"+pinned)
	s.worker()
	changes := func() string {
		t.Helper()
		s.planner("plan", "--wait").exits(0)
		return s.planner("changes").exits(0)
	}
	require.NotContains(t, changes(), "vanished")
	require.NoError(t, s.source.Untag("osism/tool", "2"))
	said := changes()
	require.Contains(t, said, "1 vanished.")
	require.Regexp(t, `(?m)^vanished +`+s.source.Host()+`/osism/tool:2 `, said)
	_, err := s.destination.Digest(prefix+"/osism/tool", "2")
	require.NoError(t, err)
	require.Contains(t, changes(), "has changed no tag")
	s.push("osism/tool", "2")
	require.NotContains(t, changes(), "vanished")
	require.NoError(t, s.source.Untag("osism/tool", "2"))
	require.Contains(t, changes(), "1 vanished.")
}

// TestServeWithBroker: with NATS_URL, planner serve plans and serves the page, and workers mirror.
func TestServeWithBroker(t *testing.T) {
	t.Parallel()
	s, broker := newFleet(t)
	s.push("osism/tool", "1")
	s.write("osism/tool")
	broker.Stop()
	s = s.with("MIRROR_SCHEDULE", never)
	serve := s.with("UI_ADDR", "127.0.0.1:0").planner("serve")
	serve.says("waiting for the broker")
	page := pageURL.FindStringSubmatch(serve.all.String())[1]
	for path, status := range map[string]int{"/healthz": http.StatusOK, "/readyz": http.StatusServiceUnavailable, "/": http.StatusServiceUnavailable} {
		response, err := http.Get(page + path)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, status, response.StatusCode, path)
	}
	broker.Restart()
	serve.says("planned by schedule")
	require.Contains(t, get(t, page), "running")
	require.Equal(t, run.StateWaiting, s.status().State)
	require.Eventually(t, func() bool { return strings.Contains(get(t, page+"/images"), `osism/tool</bdi></a>`) }, patience, tick)
	require.Regexp(t, s.source.Host()+`/osism/tool</bdi>(?s:.*)not checked yet</span>`, get(t, page+"/images"))
	require.Contains(t, get(t, page+"/images?repository="+s.source.Host()+"/osism/tool"), "not checked yet")
	s.worker()
	require.Eventually(t, func() bool { return strings.Contains(get(t, page), "fresh") }, patience, tick)
	s.requireMirrored("osism/tool")
	require.NotContains(t, get(t, page+"/images"), "not checked yet</span>")

	// The list is unreachable. The page shows that until the list is planned again.
	require.NoError(t, os.Rename(s.list, s.list+".away"))
	require.Contains(t, post(t, page+"/actions/plan", nil), "Not done.")
	require.Contains(t, get(t, page), "Planning failed")
	require.NoError(t, os.Rename(s.list+".away", s.list))
	require.Contains(t, post(t, page+"/actions/plan", nil), "Published run")
	require.NotContains(t, get(t, page), "Planning failed")
	serve.signal(syscall.SIGTERM)
	serve.exits(0)
}

// TestServeRefuses: the page is open to other machines only if it is protected.
func TestServeRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.write("osism/tool")
	for variables, said := range map[[4]string]string{
		{"UI_ADDR", ":8080"}:                                  "UI_ADDR=\":8080\": expected a loopback address",
		{"UI_ADDR", "0.0.0.0:0"}:                              "UI_PASSWORD_FILE, UI_TRUST_PROXY or UI_READ_ONLY=true is required",
		{"UI_ADDR", "nowhere"}:                                "UI_ADDR",
		{"UI_PASSWORD_FILE", "/no/such/file"}:                 "UI_PASSWORD_FILE",
		{"UI_TRUST_PROXY", "X-User: x"}:                       "UI_TRUST_PROXY",
		{"MIRROR_SCHEDULE", "every night"}:                    "MIRROR_SCHEDULE",
		{"MIRROR_SCHEDULE", never, "MIRROR_TIMEZONE", "Mars"}: "MIRROR_TIMEZONE",
		{"MIRROR_SOURCE_URL", "-"}:                            "MIRROR_SOURCE_URL",
		{"MAX_AGE", "-1h"}:                                    "MAX_AGE",
	} {
		pairs := variables[:2]
		if variables[2] != "" {
			pairs = variables[:]
		}
		require.Contains(t, s.with(pairs...).planner("serve").exits(2), said, fmt.Sprint(variables))
	}
	open := s.with("UI_ADDR", "0.0.0.0:0", "UI_READ_ONLY", "true").planner("serve")
	open.says("planner serve is running")
	page := pageURL.FindStringSubmatch(open.all.String())[1]
	response, err := http.PostForm(strings.Replace(page, "[::]", "127.0.0.1", 1)+"/actions/plan", nil)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusForbidden, response.StatusCode)
	open.signal(syscall.SIGTERM)
	open.exits(0)
}

// receiver is a webhook that refuses messages until it is repaired.
type receiver struct {
	*httptest.Server
	mended   atomic.Bool
	mu       sync.Mutex
	received []string // the events, by kind and id
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if !r.mended.Load() {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		var event struct{ Event, ID string }
		if json.NewDecoder(q.Body).Decode(&event) == nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.received = append(r.received, event.Event+" "+event.ID)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) events() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.received)
}

// TestServeNotifies: each receiver gets one message about a run with failures, even if processes
// are killed meanwhile. A receiver that is down gets its message later; until then, the page shows
// the problem.
func TestServeNotifies(t *testing.T) {
	t.Parallel()
	s, _ := newFleet(t)
	down, up := newReceiver(t), newReceiver(t)
	up.mended.Store(true)
	s.write("osism/missing")
	s.worker()
	s = s.with("MIRROR_SCHEDULE", never, "NOTIFY_URLS", down.URL+" "+up.URL)
	serve, page := s.serve()
	require.Eventually(t, func() bool { return len(up.events()) > 0 }, patience, tick)
	require.Eventually(t, func() bool { return strings.Contains(get(t, page), "notification could not be sent") }, patience, tick)
	serve.kill()
	first, page := s.serve()
	second, other := s.serve()
	for _, page := range []string{page, other} {
		require.Eventually(t, func() bool { return strings.Contains(get(t, page), "notification could not be sent") }, patience, tick)
	}
	down.mended.Store(true)
	require.Eventually(t, func() bool { return len(down.events()) > 0 }, 3*patience, tick)
	for _, page := range []string{page, other} {
		require.Eventually(t, func() bool { return !strings.Contains(get(t, page), "A notification was not sent") }, patience, tick)
	}
	require.Equal(t, up.events(), down.events())
	require.Len(t, up.events(), 1)
	require.Regexp(t, `^failed [0-9a-f]{24}$`, up.events()[0])
	for _, p := range []*process{first, second} {
		p.signal(syscall.SIGTERM)
		p.exits(0)
	}
}
