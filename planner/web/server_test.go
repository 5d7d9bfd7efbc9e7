package web

import (
	"bytes"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/osism/skopeo-worker/shared/run"
)

var quiet = slog.New(slog.DiscardHandler)

// follow is a client that does not follow redirects. If it has a jar, it keeps cookies: its
// transport also accepts secure ones from the test server, which serves plain HTTP.
func client() *http.Client {
	return &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// answer sends a request, and returns the response and its text.
func answer(t *testing.T, c *http.Client, method, url string, body url.Values, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body.Encode()))
	require.NoError(t, err)
	if body != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	r.Header.Set("Accept", "text/html")
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	return done(t, c, r)
}

// done sends a request, and returns the response and its text.
func done(t *testing.T, c *http.Client, r *http.Request) (*http.Response, string) {
	t.Helper()
	response, err := c.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(text)
}

func get(t *testing.T, url string, header ...string) (*http.Response, string) {
	t.Helper()
	return answer(t, client(), http.MethodGet, url, nil, header...)
}

func post(t *testing.T, url string, body url.Values, header ...string) (*http.Response, string) {
	t.Helper()
	if body == nil {
		body = map[string][]string{}
	}
	return answer(t, client(), http.MethodPost, url, body, header...)
}

// passwords writes a file with one user in the format of htpasswd -B.
func passwordFile(t *testing.T, user, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "htpasswd")
	require.NoError(t, os.WriteFile(path, []byte("# users\n"+user+":"+string(hash)+"\n"), 0o600))
	return path
}

// TestHostileNames: every page shows names from registries and lists as plain text.
func TestHostileNames(t *testing.T) {
	f := newFixture(t)
	live := f.bad()
	served := serve(t, Config{}, f.site, quiet)
	query := url.QueryEscape(script)
	for _, path := range []string{
		"/", "/failures", "/failures?q=" + query, "/failures?mirror=" + query, "/runs", "/runs?mirror=" + query, "/runs/" + live,
		"/runs/" + url.PathEscape(script), "/actions/republish?repository=" + query, "/actions/" + url.PathEscape(script), "/login?to=" + query,
		"/" + url.PathEscape(script), "/?note=" + query, "/images", "/images?q=" + query, "/images?state=" + query, "/images?repository=" + query, "/images?repository=quay.io/osism/image-01",
		"/pruning", "/pruning?show=stays", "/pruning?show=" + query, "/pruning?mirror=" + query, "/actions/prune?grace=" + query,
		"/images/waiting", "/images/waiting?mirror=" + query, "/images?repository=" + young.String(), "/actions/release?" + releaseOf("3.1.0", "new").Encode(), "/actions/release?repository=" + query, "/actions/release?" + releaseOf(script, "new").Encode(),
	} {
		response, text := get(t, served.URL+path)
		require.NotContains(t, text, "<script>hostile", path)
		require.NotContains(t, text, "<img", path)
		require.NotContains(t, text, "\u202e", path)
		require.NotContains(t, text, "\x1b", path)
		require.NotRegexp(t, regexp.MustCompile(`(?i)\sstyle=|\son[a-z]+=["']|javascript:`), text, path)
		for name, value := range headers {
			require.Equal(t, value, response.Header.Get(name), path)
		}
	}
	_, text := get(t, served.URL+"/")
	require.Contains(t, text, "&lt;script&gt;hostile()&lt;/script&gt;")
}

// TestUnknown: other paths and other files are not found.
func TestUnknown(t *testing.T) {
	f := newFixture(t)
	served := serve(t, Config{}, f.site, quiet)
	for _, path := range []string{
		"/nothing", "/runs/x", "/runs/../../etc/passwd", "/static/../server.go", "/static/%2e%2e/templates/now.html", "/static/..%2f..%2fgo.mod",
		"/templates/now.html", "/failures?mirror=unknown", "/runs?mirror=..%2f", "/runs/20260101-000000-000-0000",
	} {
		response, text := get(t, served.URL+path)
		require.Contains(t, []int{http.StatusNotFound, http.StatusBadRequest, http.StatusTemporaryRedirect, http.StatusMovedPermanently}, response.StatusCode, path)
		require.NotContains(t, text, "package web", path)
		require.NotContains(t, text, "{{", path)
	}
	_, text := get(t, served.URL+"/nothing")
	require.Contains(t, text, `<nav aria-label="Pages">`, "a user finds back")
	for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
		_, text := get(t, served.URL+path)
		require.Equal(t, "probe of "+path+"\n", text)
	}
	response, _ := get(t, served.URL+"/static/page.css")
	require.Equal(t, "text/css; charset=utf-8", response.Header.Get("Content-Type"))

	// Without a broker, the page says so.
	waiting := serve(t, Config{}, nil, quiet)
	response, text = get(t, waiting.URL+"/")
	require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
	require.Contains(t, text, "The broker is not connected yet.")
}

// TestActions: only a confirmation from the page itself starts an action. The log records who did
// what.
func TestActions(t *testing.T) {
	f := newFixture(t)
	var logged safeBuffer
	served := serve(t, Config{}, f.site, slog.New(slog.NewTextHandler(&logged, nil)))
	id := run.NewID(time.Now())
	for _, path := range []string{"/actions/plan", "/actions/republish", "/actions/cancel?run=" + id} {
		response, text := get(t, served.URL+path)
		require.Equal(t, http.StatusOK, response.StatusCode)
		require.Contains(t, text, `<form method="post"`)
	}
	for name, header := range map[string][]string{
		"another site": {"Sec-Fetch-Site", "cross-site"}, "a sister": {"Sec-Fetch-Site", "same-site"}, "an old browser": {"Origin", "https://hostile.example"},
	} {
		response, _ := post(t, served.URL+"/actions/republish", nil, header...)
		require.Equal(t, http.StatusForbidden, response.StatusCode, name)
	}
	for _, host := range []string{"hostile.example", "hostile.example:8080", "127.0.0.1.hostile.example", ""} {
		if host == "" {
			continue
		}
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			response, _ := answer(t, client(), method, served.URL+"/", nil, "Host", host)
			require.Equal(t, http.StatusMisdirectedRequest, response.StatusCode, host)
		}
	}
	for path, body := range map[string]url.Values{
		"/actions/explode": nil, "/actions/cancel": {"run": {"../x"}}, "/actions/plan": {"mirror": {otherMirror}}, "/actions/republish": {"mirror": {"UP"}},
		"/actions/republish?": {"image": {""}}, "/actions/republish?a": {"repository": {""}}, "/actions/republish?b": {"repository": {"quay.io/x"}, "image": {"quay.io/x:1"}},
	} {
		response, _ := post(t, served.URL+path, body)
		require.Equal(t, http.StatusBadRequest, response.StatusCode, path)
	}
	response, _ := post(t, served.URL+"/actions/republish", url.Values{"repository": {strings.Repeat("x", maxBody)}})
	require.Equal(t, http.StatusBadRequest, response.StatusCode)
	require.Empty(t, f.actions.all())

	do := func(path string, body url.Values) string {
		t.Helper()
		response, _ := post(t, served.URL+path, body, "Sec-Fetch-Site", "same-origin")
		require.Equal(t, http.StatusSeeOther, response.StatusCode)
		f.ran(otherMirror, 1, time.Hour, run.Tally{})
		f.ran(mirror, 1, time.Hour, run.Tally{})
		_, text := get(t, served.URL+response.Header.Get("Location"))
		return text
	}
	require.Contains(t, do("/actions/plan", nil), "Did plan.")
	require.Contains(t, do("/actions/republish", url.Values{"repository": {"quay.io/x"}}), "Did republish nightly quay.io/x.")
	require.Contains(t, do("/actions/republish", nil), "Did republish nightly .")
	require.Contains(t, do("/actions/republish", url.Values{"image": {"quay.io/x:1"}}), "Did republish nightly quay.io/x:1.")
	do("/actions/cancel", url.Values{"run": {id}})
	require.Equal(t, []string{"plan", "republish nightly quay.io/x", "republish nightly ", "republish nightly quay.io/x:1", "cancel nightly " + id}, f.actions.all())
	require.Contains(t, logged.String(), `msg="audit: action done" action=republish mirror=nightly repository=quay.io/x user=anonymous address=127.0.0.1:`)

	response, _ = post(t, served.URL+"/actions/cancel", url.Values{"run": {id}, "mirror": {otherMirror}})
	require.Equal(t, http.StatusSeeOther, response.StatusCode)
	require.Contains(t, logged.String(), `msg="audit: action failed" action=cancel`)
}

func TestReadOnly(t *testing.T) {
	f := newFixture(t)
	live := f.bad()
	served := serve(t, Config{Addr: "0.0.0.0:0", ReadOnly: true}, f.site, quiet)
	for _, path := range []string{"/", "/failures", "/runs", "/runs/" + live, "/pruning", "/images/waiting", "/images?repository=" + young.String()} {
		response, text := get(t, served.URL+path, "Host", "mirror.example.com")
		require.Equal(t, http.StatusOK, response.StatusCode)
		require.NotContains(t, text, "/actions/")
		require.NotContains(t, text, `method="post"`)
	}
	st, err := f.prunes.State(t.Context(), mirror)
	require.NoError(t, err)
	for _, action := range []string{"plan", "republish", "cancel", "release", "prune", "execute"} {
		given := releaseOf("3.1.0", "new")
		maps.Copy(given, url.Values{"run": {live}, "plan": {st.Review.Plan}, "tags": {"12"}})
		if action == "republish" {
			given = url.Values{}
		}
		response, _ := post(t, served.URL+"/actions/"+action, given)
		require.Equal(t, http.StatusForbidden, response.StatusCode)
		_, text := get(t, served.URL+"/actions/"+action+"?"+given.Encode())
		require.NotContains(t, text, "<form")
	}
	require.Empty(t, f.actions.all())
}

// TestLogin: clients without a password see nothing, and can try only a few.
func TestLogin(t *testing.T) {
	f := newFixture(t)
	f.failed(mirror, "quay.io/secret/repository", "away", "1")
	var logged safeBuffer
	c := Config{Addr: "0.0.0.0:0", PasswordFile: passwordFile(t, "ada", "correct horse")}
	served := serve(t, c, f.site, slog.New(slog.NewTextHandler(&logged, nil)))
	response, _ := get(t, served.URL+"/failures?q=x")
	require.Equal(t, "/login?to=%2Ffailures%3Fq%3Dx", response.Header.Get("Location"))
	for _, path := range []string{"/", "/failures", "/runs", "/metrics", "/actions/plan", "/nothing"} {
		response, text := get(t, served.URL+path, "Accept", "*/*")
		require.Equal(t, http.StatusUnauthorized, response.StatusCode, path)
		require.NotContains(t, text, "secret")
		require.NotContains(t, text, "<nav")
	}
	response, _ = post(t, served.URL+"/actions/plan", nil)
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
	response, _ = get(t, served.URL+"/healthz")
	require.Equal(t, http.StatusOK, response.StatusCode)

	logIn := func(user, password, to string) (*http.Response, string) {
		t.Helper()
		return post(t, served.URL+"/login", url.Values{"user": {user}, "password": {password}, "to": {to}}, "Sec-Fetch-Site", "same-origin")
	}
	response, _ = logIn("ada", "correct horse", "/failures")
	require.Equal(t, http.StatusSeeOther, response.StatusCode)
	require.Equal(t, "/failures", response.Header.Get("Location"))
	cookie := response.Cookies()[0]
	require.True(t, cookie.Secure && cookie.HttpOnly && cookie.SameSite == http.SameSiteLaxMode && cookie.Path == "/" && cookie.Domain == "")
	session := "Cookie"
	token := cookie.Name + "=" + cookie.Value
	response, text := get(t, served.URL+"/failures", session, token)
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Contains(t, text, "quay.io/secret/repository")
	require.Contains(t, text, "<span>ada</span>")
	response, _ = post(t, served.URL+"/actions/plan", nil, session, token)
	require.Equal(t, http.StatusSeeOther, response.StatusCode)
	require.Contains(t, logged.String(), "action=plan mirror=nightly user=ada")

	// A script sends the password with each request.
	basic := httptest.NewRequest(http.MethodGet, "/", nil)
	basic.SetBasicAuth("ada", "correct horse")
	response, _ = get(t, served.URL+"/metrics", "Authorization", basic.Header.Get("Authorization"))
	require.Equal(t, http.StatusOK, response.StatusCode)

	// A changed password ends the sessions of the old one. Logging out ends the session, too.
	hash, err := bcrypt.GenerateFromPassword([]byte("battery"), bcrypt.MinCost)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(c.PasswordFile, []byte("ada:"+string(hash)+"\n# changed"), 0o600))
	response, _ = get(t, served.URL+"/failures", session, token)
	require.Equal(t, http.StatusSeeOther, response.StatusCode)
	response, _ = logIn("ada", "battery", "//hostile.example/")
	require.Equal(t, "/", response.Header.Get("Location"), "a login leads to no other site")
	token = cookie.Name + "=" + response.Cookies()[0].Value
	response, _ = post(t, served.URL+"/logout", nil, session, token)
	require.Equal(t, http.StatusSeeOther, response.StatusCode)
	response, _ = get(t, served.URL+"/failures", session, token)
	require.Equal(t, http.StatusSeeOther, response.StatusCode)

	// After too many tries, even the right password is not checked.
	statuses := map[int]int{}
	for _, user := range []string{"ada", "nobody", script, "ada", "ada", "ada", "ada", "ada"} {
		response, text := logIn(user, "wrong", "/")
		statuses[response.StatusCode]++
		require.NotContains(t, text, "<script>hostile")
	}
	require.Positive(t, statuses[http.StatusUnauthorized])
	require.Positive(t, statuses[http.StatusTooManyRequests])
	response, _ = logIn("ada", "battery", "/")
	require.Equal(t, http.StatusTooManyRequests, response.StatusCode)
	require.NotEmpty(t, response.Header.Get("Retry-After"))
	require.Contains(t, logged.String(), `msg="audit: login refused" user=ada`)
	require.NotContains(t, logged.String(), "battery")
	require.NotContains(t, logged.String(), "correct horse")
}

// TestTrustProxy: the proxy names the user. A request without that header is refused.
func TestTrustProxy(t *testing.T) {
	f := newFixture(t)
	var logged safeBuffer
	served := serve(t, Config{Addr: "0.0.0.0:0", TrustProxy: "X-Forwarded-User"}, f.site, slog.New(slog.NewTextHandler(&logged, nil)))
	for _, user := range []string{"", "a\u202eb", strings.Repeat("x", maxUser+1)} {
		response, _ := get(t, served.URL+"/", "X-Forwarded-User", user)
		require.Equal(t, http.StatusForbidden, response.StatusCode)
	}
	response, text := get(t, served.URL+"/", "X-Forwarded-User", "ada@example.com")
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Contains(t, text, "ada@example.com")
	require.NotContains(t, text, "Log out")
	_, _ = post(t, served.URL+"/actions/plan", nil, "X-Forwarded-User", "ada@example.com")
	require.Contains(t, logged.String(), "user=ada@example.com")
	response, _ = post(t, served.URL+"/login", url.Values{"user": {"ada"}})
	require.Equal(t, http.StatusNotFound, response.StatusCode)
}

func TestPasswordFile(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("x"), bcrypt.MinCost)
	require.NoError(t, err)
	for text, problem := range map[string]string{
		"":                 "no users",
		"# nothing\n\n":    "no users",
		"ada":              ":1: expected user:hash",
		":" + string(hash): ":1: expected user:hash",
		"ada:{SHA}x":       ":1: the hash of ada is not bcrypt",
		"ada:$apr1$x$y":    "not bcrypt",
		"a:" + string(hash) + "\na:" + string(hash): ":2: a is listed twice",
		"a:$2y$31$" + strings.Repeat("x", 53):       "cost 31",
	} {
		_, err := parseUsers("file", []byte(text))
		require.ErrorContains(t, err, problem, text)
		require.NotContains(t, err.Error(), string(hash))
	}
	all, err := parseUsers("file", []byte("\r\nada:"+string(hash)+"\r\n"))
	require.NoError(t, err)
	require.Len(t, all, 1)
}

func FuzzUsers(f *testing.F) {
	f.Add([]byte("ada:$2y$05$abcdefghijklmnopqrstuuO5yZL0oOaGWTzR0bCW2AhPpDAz5.H6u\n#\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseUsers("file", data)
		if err == nil && len(all) == 0 {
			t.Fatal("no users and no error")
		}
	})
}

func FuzzLocal(f *testing.F) {
	for _, path := range []string{"/failures?q=1", "//hostile.example", "/\\hostile.example", "https://hostile.example", "/%2f%2fhostile.example", "javascript:x"} {
		f.Add(path)
	}
	base, err := url.Parse("http://127.0.0.1:8080/login")
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, path string) {
		to, err := base.Parse(local(path))
		if err != nil || to.Host != base.Host || to.Scheme != base.Scheme {
			t.Fatalf("%q leads to %v", path, to)
		}
	})
}

// safeBuffer is a log that can be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}
