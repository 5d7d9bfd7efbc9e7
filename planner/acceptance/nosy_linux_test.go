package acceptance

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/scripttest"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// nosy is a site with a secret in every place that takes one. Its registries, proxy and list repeat
// what they receive.
type nosy struct {
	*site
	planted
	seen string // folder in which children write down their arguments and variables
	mu   sync.Mutex
	sent []string      // tokens that were echoed
	list *atomic.Int32 // requests for the list with its credentials
	via  *atomic.Int32 // requests to the proxy with its password
	all  []*process
}

func newNosy(t *testing.T) *nosy {
	t.Helper()
	n := &nosy{planted: plant(), seen: t.TempDir(), list: new(atomic.Int32), via: new(atomic.Int32)}
	n.site = newSite(t, registrytest.WithTokenAuth(registrytest.TokenAuth{User: "puller", Password: n.planted["auth.json"]}))
	n.destination = registrytest.New(t, registrytest.WithBasicAuth("pusher", n.planted["helper"]))
	broken := registrytest.New(t, registrytest.WithBasicAuth("someone", "secret"))
	n.env["MIRROR_DEST_URL"] = n.destination.Host() + "/" + prefix
	n.env["INSECURE_REGISTRIES"] = strings.Join([]string{n.site.source.Host(), n.destination.Host(), broken.Host(), "far.example"}, ",")
	n.env["LOG_LEVEL"] = "debug"
	n.env["MAX_ATTEMPTS"] = "1"
	n.env["AWS_SECRET_ACCESS_KEY"] = n.planted["AWS"]
	n.env["CI_JOB_TOKEN"], n.env["CHILD_ENV"] = n.planted["CI"], "CI_*"
	n.env["DATABASE_PASSWORD"] = n.planted["others"]
	n.watchChildren()
	n.giveCredentials(broken.Host())
	n.tellTales()
	n.startProxy()

	for _, repository := range []string{"good", "manifest", "listing", "layer", "put", "helper"} {
		n.push("osism/"+repository, "1")
	}
	_, err := broken.PushImage("osism/helper", "1", registrytest.Image{})
	require.NoError(t, err)
	n.write("osism/good", "osism/manifest", "osism/listing", "osism/layer", "osism/put")
	text, err := os.ReadFile(n.site.list)
	require.NoError(t, err)
	n.serveList(string(text) + "  - " + broken.Host() + "/osism/helper:1\n  - far.example/lib/x:1\n")
	return n
}

// watchChildren runs skopeo through a program that records its arguments and environment.
func (n *nosy) watchChildren() {
	n.t.Helper()
	n.script("skopeo-that-reports", `cat /proc/$$/cmdline >"`+n.seen+`/skopeo.$$.cmdline"
cat /proc/$$/environ >"`+n.seen+`/skopeo.$$.environ"
exec skopeo "$@"`)
	n.env["COPY_ENGINE"] = "skopeo"
	n.env["SKOPEO_PATH"] = filepath.Join(n.seen, "skopeo-that-reports")
	n.env["PATH"] = n.seen + ":" + os.Getenv("PATH")
}

func (n *nosy) script(name, lines string) {
	n.t.Helper()
	scripttest.Write(n.t, filepath.Join(n.seen, name), lines)
}

// giveCredentials puts the login of the source into auth.json. A helper returns the login of the
// destination, and another one fails for the broken registry.
func (n *nosy) giveCredentials(broken string) {
	n.t.Helper()
	tell := `cat /proc/$$/environ >"` + n.seen + `/helper.$$.environ"` + "\n"
	n.script("docker-credential-works", tell+`read server
printf '{"ServerURL":"%s","Username":"pusher","Secret":"`+n.planted["helper"]+`"}' "$server"`)
	n.script("docker-credential-breaks", tell+`echo "the token `+n.planted["failing-helper"]+` has expired"; exit 1`)
	path := filepath.Join(n.t.TempDir(), "auth.json")
	login := base64.StdEncoding.EncodeToString([]byte("puller:" + n.planted["auth.json"]))
	text := fmt.Sprintf(`{"auths":{%q:{"auth":%q}},"credHelpers":{%q:"works",%q:"breaks"}}`,
		n.site.source.Host(), login, n.destination.Host(), broken)
	require.NoError(n.t, os.WriteFile(path, []byte(text), 0o600))
	n.env["REGISTRY_AUTH_FILE"] = path
}

// tellTales makes both registries repeat what they receive.
func (n *nosy) tellTales() {
	inJSON := func(words string) string { return `{"errors":[{"code":"DENIED","message":"no: ` + words + `"}]}` }
	password := n.planted["auth.json"]
	token := func(_, value string) string {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.sent = append(n.sent, value)
		return inJSON("token " + value + ", password " + password + " or " + url.QueryEscape(password))
	}
	header := func(scheme, value string) string { return scheme + " " + value }
	decoded := func(_, value string) string {
		login, _ := base64.StdEncoding.DecodeString(value)
		return "<title>" + string(login) + "</title>"
	}
	for _, fault := range []struct {
		at    *registrytest.Registry
		match registrytest.Match
		echo  func(scheme, value string) string
	}{
		{n.site.source, of("osism/manifest", pulls), token},
		{n.site.source, of("osism/listing", registrytest.Kinds(registrytest.KindTags)), token},
		{n.site.source, of("osism/layer", blobs), header},
		{n.destination, of(prefix+"/osism/put", registrytest.Kinds(registrytest.KindManifestPut)), decoded},
	} {
		fault.at.Inject(registrytest.Fault{Match: fault.match, Status: http.StatusForbidden, Echo: fault.echo})
	}
}

// startProxy starts the proxy of far.example. It refuses all requests, and repeats the password
// that it receives in the status line and in a page.
func (n *nosy) startProxy() {
	n.t.Helper()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		login := r.Header.Get("Proxy-Authorization")
		if login != "" {
			n.via.Add(1)
		}
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 403 no %s\r\nConnection: close\r\n\r\nnot with %s and %s\n", login, login, n.planted["proxy"])
	}))
	n.t.Cleanup(proxy.Close)
	address := (&url.URL{Scheme: "http", User: url.UserPassword("proxy", n.planted["proxy"]), Host: proxy.Listener.Addr().String()}).String()
	n.env["HTTP_PROXY"], n.env["https_proxy"] = address, address
}

func (n *nosy) serveList(text string) {
	n.t.Helper()
	lists := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "reader" || password != n.planted["MIRROR_SOURCE_URL"] || r.URL.Query().Get("private_token") != n.planted["query"] {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		n.list.Add(1)
		_, _ = w.Write([]byte(text))
	}))
	n.t.Cleanup(lists.Close)
	n.env["MIRROR_SOURCE_URL"] = (&url.URL{
		Scheme: "http", User: url.UserPassword("reader", n.planted["MIRROR_SOURCE_URL"]), Host: lists.Listener.Addr().String(),
		Path: "/images.yml", RawQuery: url.Values{"private_token": {n.planted["query"]}}.Encode(),
	}).String()
}

// fails waits until all of the images have failed.
func (n *nosy) fails() {
	n.t.Helper()
	require.Eventually(n.t, func() bool {
		failed := map[string]bool{}
		for _, record := range n.failed() {
			_, path, _ := strings.Cut(record.Repository, "/")
			failed[path] = true
		}
		for _, repository := range leaking {
			if !failed[repository] {
				return false
			}
		}
		return n.via.Load() > 0
	}, patience, asking)
	require.Positive(n.t, n.list.Load())
	require.NotEmpty(n.t, n.tokens())
}

func (n *nosy) tokens() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.sent)
}

func (n *nosy) planner(arguments ...string) *process {
	n.t.Helper()
	p := n.site.planner(arguments...)
	n.all = append(n.all, p)
	return p
}

// hides requires that the text contains no secret.
func (n *nosy) hides(what, text string) {
	n.t.Helper()
	require.Empty(n.t, n.planted.in(text), "%s\n%s", what, text)
	for _, token := range n.tokens() {
		require.NotContains(n.t, text, token, what)
	}
}

// requireNoSecrets searches all files and data that the commands have written.
func (n *nosy) requireNoSecrets(store string) {
	n.t.Helper()
	for _, arguments := range [][]string{{"failed", "-o", "json"}, {"failed"}, {"status", "-o", "json"}, {"status"}} {
		n.planner(arguments...).exits(0)
	}
	for _, p := range n.all {
		n.hides(strings.Join(p.command.Args, " "), p.all.String())
	}
	// The reasons are kept, without the secrets.
	for _, record := range n.failed() {
		for _, image := range record.Images {
			require.NotEmpty(n.t, image.Reason)
			n.hides("the reason of "+image.Source, image.Reason)
		}
	}
	n.searchFiles(store)
	n.searchChildren()
}

func (n *nosy) searchFiles(store string) {
	n.t.Helper()
	files := 0
	require.NoError(n.t, filepath.WalkDir(store, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		require.Empty(n.t, n.planted.in(string(text)), path)
		return err
	}))
	require.Positive(n.t, files)
}

// searchChildren checks the arguments and environments of skopeo and the helpers. They may have the
// password of a proxy, the credentials of clouds, and the variables that CHILD_ENV names.
func (n *nosy) searchChildren() {
	n.t.Helper()
	seen := map[string]int{}
	entries, err := os.ReadDir(n.seen)
	require.NoError(n.t, err)
	for _, entry := range entries {
		name := entry.Name()
		text, err := os.ReadFile(filepath.Join(n.seen, name))
		require.NoError(n.t, err)
		switch filepath.Ext(name) {
		case ".cmdline":
			require.Empty(n.t, n.planted.in(string(text)), name)
		case ".environ":
			require.Empty(n.t, n.planted.except("proxy", "AWS", "CI").in(string(text)), name)
			require.NotContains(n.t, string(text), "NATS_")
			require.NotContains(n.t, string(text), "MIRROR_")
			for _, needed := range []string{"PATH=", "HOME=", "REGISTRY_AUTH_FILE=", "HTTP_PROXY=", "https_proxy=", "AWS_SECRET_ACCESS_KEY=", "CI_JOB_TOKEN="} {
				require.Contains(n.t, "\x00"+string(text), "\x00"+needed, name)
			}
		default:
			continue
		}
		kind, _, _ := strings.Cut(name, ".")
		seen[kind+filepath.Ext(name)]++
	}
	require.Positive(n.t, seen["skopeo.cmdline"])
	require.Positive(n.t, seen["skopeo.environ"])
	require.Positive(n.t, seen["helper.environ"])
}

// gaveUp reports whether a process has logged a failure of every named image.
func (n *nosy) gaveUp(p *process) bool {
	for _, repository := range leaking {
		if !regexp.MustCompile(`msg="an image failed".* image=\S+/` + repository + `\b`).MatchString(p.all.String()) {
			return false
		}
	}
	return true
}
