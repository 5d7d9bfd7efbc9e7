package web

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/prune"
)

// document is the part of openapi.yaml that tests need.
type document struct {
	Paths map[string]map[string]any
}

// schemas compiles the schemas of the answers in openapi.yaml.
func schemas(t *testing.T) (document, func(name string) *jsonschema.Schema) {
	t.Helper()
	var d document
	require.NoError(t, yaml.Unmarshal(openAPI, &d))
	var whole any
	require.NoError(t, yaml.Unmarshal(openAPI, &whole))
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	require.NoError(t, c.AddResource("api.json", whole))
	return d, func(name string) *jsonschema.Schema {
		compiled, err := c.Compile("api.json#/components/schemas/" + name)
		require.NoError(t, err)
		return compiled
	}
}

// valid requires that a text is JSON that satisfies a schema.
func valid(t *testing.T, schema *jsonschema.Schema, text string) {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	require.NoError(t, err, text)
	require.NoError(t, schema.Validate(value), text)
}

// TestAPI: all answers satisfy openapi.yaml, and openapi.yaml describes all paths.
func TestAPI(t *testing.T) {
	f := newFixture(t)
	live := f.bad()
	served := serve(t, Config{}, f.site, quiet)
	described, schema := schemas(t)
	for path, want := range map[string]string{
		"mirrors": "Overview", "mirrors/nightly/runs": "Runs", "mirrors/nightly/runs?skip=3&count=2": "Runs", "mirrors/nightly/runs/" + live: "Run",
		"mirrors/nightly/runs/" + live + "/changes": "Changes",
		"mirrors/nightly/pruning":                   "Pruning", "mirrors/weekly/pruning": "Pruning",
		"mirrors/nightly/waiting": "Waiting", "mirrors/weekly/waiting": "Waiting",
		"mirrors/nightly/repositories": "Repositories", "mirrors/nightly/repositories?q=image-0&state=failed&skip=1&count=1": "Repositories",
	} {
		response, text := get(t, served.URL+"/api/v1/"+path)
		require.Equal(t, http.StatusOK, response.StatusCode, text)
		require.Equal(t, "application/json", response.Header.Get("Content-Type"))
		valid(t, schema(want), text)
	}
	_, text := get(t, served.URL+"/api/v1/mirrors/nightly/failures")
	failures, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	require.NoError(t, err)
	require.Len(t, failures, 3)
	for _, record := range failures.([]any) {
		require.NoError(t, schema("Failure").Validate(record))
	}
	_, text = get(t, served.URL+"/api/v1/mirrors/nightly/runs?skip=3&count=2")
	require.Equal(t, 2, strings.Count(text, `"kind":"plan"`))

	id := run.NewID(time.Now())
	for path, body := range map[string]string{"nightly/plan": "", "nightly/republish": `{"repository":"quay.io/a/b"}`, "weekly/republish": "", "nightly/republish?": `{"image":"quay.io/a/b:1"}`, "nightly/runs/" + id + "/cancel": ""} {
		response, text := send(t, served.URL+"/api/v1/mirrors/"+path, body)
		require.Equal(t, http.StatusOK, response.StatusCode, text)
		valid(t, schema("Outcome"), text)
	}
	require.ElementsMatch(t, []string{"plan", "republish nightly quay.io/a/b", "republish weekly ", "republish nightly quay.io/a/b:1", "cancel nightly " + id}, f.actions.all())

	for path, status := range map[string]int{
		"mirrors/unknown/runs": http.StatusNotFound, "mirrors/unknown/failures": http.StatusNotFound, "mirrors/nightly/runs/" + id: http.StatusNotFound,
		"mirrors/nightly/runs?skip=-1": http.StatusBadRequest, "mirrors/nightly/repositories?state=x": http.StatusBadRequest, "mirrors/nightly/repositories?count=x": http.StatusBadRequest, "mirrors/nightly/runs/" + url.PathEscape(">") + "/changes": http.StatusNotFound, "nothing": http.StatusNotFound,
	} {
		response, text := get(t, served.URL+"/api/v1/"+path)
		require.Equal(t, status, response.StatusCode, path)
		valid(t, schema("Error"), text)
	}
	for path, body := range map[string]string{"weekly/plan": "", "nightly/republish": `{"repositories":[]}`, "nightly/republish?a": `{"image":""}`, "nightly/republish?b": `{"repository":""}`, "nightly/republish?c": `{"repository":"a/b","image":"a/b:1"}`, "nightly/republish?d": `{"repository":null}`, "nightly/republish?e": `null`, "nightly/republish?f": `[]`, "nightly/release": "", "nightly/release?": `{"repository":"quay.io/osism/young","tag":"3.1.0"}`, "nightly/runs/x/cancel": ""} {
		response, text := send(t, served.URL+"/api/v1/mirrors/"+path, body)
		require.Equal(t, http.StatusBadRequest, response.StatusCode, path)
		valid(t, schema("Error"), text)
	}
	response, _ := post(t, served.URL+"/api/v1/mirrors/nightly/plan", nil, "Origin", "https://hostile.example")
	require.Equal(t, http.StatusForbidden, response.StatusCode)
	require.Len(t, f.actions.all(), 5)

	// Each path in openapi.yaml is served, and each served path is in openapi.yaml.
	_, text = get(t, served.URL+"/api/v1/openapi.yaml")
	require.Equal(t, string(openAPI), text)
	var paths []string
	for path, methods := range described.Paths {
		for method := range methods {
			if method != "parameters" {
				paths = append(paths, strings.ToUpper(method)+" /api/v1"+path)
			}
		}
	}
	var routes []string
	for route := range (&Server{}).apiRoutes() {
		routes = append(routes, route)
	}
	require.ElementsMatch(t, routes, paths)
}

// send sends a POST request with JSON.
func send(t *testing.T, url, body string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	return done(t, client(), r)
}

// TestReadOnlyAPI: with UI_READ_ONLY, the API refuses all actions.
func TestReadOnlyAPI(t *testing.T) {
	f := newFixture(t)
	served := serve(t, Config{ReadOnly: true}, f.site, quiet)
	plan := f.proposes(prunable(1, 2), 100)
	for _, path := range []string{"plan", "republish", "release", "pruning", "pruning/" + plan + "/execute", "runs/" + run.NewID(time.Now()) + "/cancel"} {
		response, _ := send(t, served.URL+"/api/v1/mirrors/nightly/"+path, "")
		require.Equal(t, http.StatusForbidden, response.StatusCode)
	}
	require.Empty(t, f.actions.all())
}

// TestPruningAPI: scripts make plans, read them, and confirm them once.
func TestPruningAPI(t *testing.T) {
	f := newFixture(t)
	f.ran(mirror, 1, time.Hour, run.Tally{Total: 1, Copied: 1})
	f.ran(otherMirror, 1, time.Hour, run.Tally{Total: 1, Copied: 1})
	at := serve(t, Config{}, f.site, quiet).URL + "/api/v1/mirrors/nightly/pruning"
	_, schema := schemas(t)
	is := func(status int, path, body, says string) {
		t.Helper()
		response, text := send(t, at+path, body)
		require.Equal(t, status, response.StatusCode, text)
		require.Contains(t, text, says)
		if status != http.StatusOK {
			valid(t, schema("Error"), text)
		}
	}
	is(http.StatusOK, "", `{"grace":"60d","max":"5%"}`, `prune 60d 5%  [] false for anonymous`)
	is(http.StatusOK, "", "", `prune    [] false for anonymous`)
	is(http.StatusOK, "", `{"keep":["lts-","v1"],"left_list":true}`, `[\"lts-\" \"v1\"] true for anonymous`)
	for _, body := range []string{`{"keep":"all"}`, `{"keep":[""]}`, `{"keep":["a"," "]}`, `{"keep":[1]}`, `{"keep":[null]}`, `{"left_list":"true"}`, `{"left_list":1}`, `{"grace":30}`, `{"grace":null}`} {
		is(http.StatusBadRequest, "", body, "unexpected value")
	}
	is(http.StatusBadRequest, "", `{"kept":["all"]}`, "unknown field")
	old, id := f.proposes(prunable(1, 2), 100), f.proposes(prunable(2, 2), 100)
	is(http.StatusConflict, "/"+old+"/execute", `{"tags":2}`, "another plan has replaced it")
	is(http.StatusBadRequest, "/x/execute", `{"tags":4}`, "no such action")
	for _, body := range []string{"", "{}", `{"tags":2}`} {
		is(http.StatusBadRequest, "/"+id+"/execute", body, "which is 4")
	}
	is(http.StatusBadRequest, "/"+id+"/execute", `{"tags":"4"}`, "not as openapi.yaml describes it")
	is(http.StatusBadRequest, "/"+id+"/execute", `{"tags":null}`, "not as openapi.yaml describes it")
	is(http.StatusOK, "/"+id+"/execute", `{"tags":4}`, "execute 4 for anonymous")
	is(http.StatusConflict, "/"+id+"/execute", `{"tags":4}`, "is being executed")
	_, text := get(t, at)
	valid(t, schema("Pruning"), text)
	lease, err := f.prunes.Take(t.Context(), mirror, prune.Holder{Plan: id, By: "ada", Process: "1"}, nil)
	require.NoError(t, err)
	require.NoError(t, lease.Release(t.Context(), &prune.Last{Plan: id, By: "ada", At: time.Now(), Why: "away", Outcome: prune.Outcome{Deleted: 3, Failed: 1}}))
	_, text = get(t, at)
	valid(t, schema("Pruning"), text)
	require.Contains(t, text, `"why":"away"`)
	response, _ := send(t, strings.Replace(at, mirror, otherMirror, 1), "")
	require.Equal(t, http.StatusBadRequest, response.StatusCode)
}

// TestMistakesWithoutABroker: while the broker is away, a request with a mistake gets the same answer as
// before, because trying it again does not help.
func TestMistakesWithoutABroker(t *testing.T) {
	f := newFixture(t)
	served := serve(t, Config{}, f.site, quiet)
	f.b.Conn.Close()
	for _, path := range []string{
		"/failures?page=0", "/images?page=x", "/images?state=x", "/images/waiting?page=-1", "/runs?page=1.5", "/runs/x?page=0", "/pruning?page=0", "/actions/cancel?run=x",
		"/api/v1/mirrors/nightly/runs?skip=-1", "/api/v1/mirrors/nightly/repositories?count=x", "/api/v1/mirrors/nightly/repositories?state=x",
	} {
		response, text := get(t, served.URL+path)
		require.Equal(t, http.StatusBadRequest, response.StatusCode, "%s: %s", path, text)
	}
	response, _ := get(t, served.URL+"/failures?page=1")
	require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
}
