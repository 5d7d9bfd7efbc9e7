package acceptance

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"maps"
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
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// planted are the secrets of a site, by where they were given.
type planted map[string]string

func plant() planted {
	p := planted{}
	for _, place := range []string{
		"NATS_PASSWORD", "NATS_URL", "NATS_TOKEN", "MIRROR_SOURCE_URL", "query", "auth.json", "helper", "failing-helper", "proxy", "AWS", "CI", "others",
	} {
		p[place] = "s3cr&t/" + place + "+of=ours"
	}
	return p
}

// in returns which secrets show in a text, bare, in a URL or in base64.
func (p planted) in(text string) (found []string) {
	for place, secret := range p {
		spellings := []string{secret, url.QueryEscape(secret), url.PathEscape(secret), strings.ReplaceAll(secret, "&", `\u0026`)}
		for before := range 3 { // where it stands in groups of three bytes
			encoded := base64.RawURLEncoding.EncodeToString(append(make([]byte, before), secret...))
			spellings = append(spellings, encoded[4:len(encoded)-4], strings.NewReplacer("-", "+", "_", "/").Replace(encoded)[4:len(encoded)-4])
		}
		for _, spelling := range spellings {
			if strings.Contains(text, spelling) {
				found = append(found, place+" as "+spelling)
				break
			}
		}
	}
	return found
}

func (p planted) except(places ...string) planted {
	others := maps.Clone(p)
	for _, place := range places {
		delete(others, place)
	}
	return others
}

// nosy is a site that has secrets in every place where they can be given, and whose
// registries, proxy and list show what they were sent.
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

// watchChildren runs skopeo through a program that writes down what it was started with.
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
	require.NoError(n.t, os.WriteFile(filepath.Join(n.seen, name), []byte("#!/bin/sh\n"+lines+"\n"), 0o700))
}

// giveCredentials puts those of the source into auth.json, and has a helper for those of
// the destination, and one for the broken registry, which fails.
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

// tellTales makes both registries show what they were sent.
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

// startProxy starts the proxy by which far.example is reached. It lets no request through,
// and shows the password it was given in its status line and in a page.
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

// leaking are the repositories that fail because a registry shows secrets.
var leaking = []string{"osism/manifest", "osism/listing", "osism/layer", "osism/put", "osism/helper"}

// fails waits until all of them have.
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

// hides requires that the text shows no secret.
func (n *nosy) hides(what, text string) {
	n.t.Helper()
	require.Empty(n.t, n.planted.in(text), "%s\n%s", what, text)
	for _, token := range n.tokens() {
		require.NotContains(n.t, text, token, what)
	}
}

// requireNoSecrets searches everything that the commands leave behind.
func (n *nosy) requireNoSecrets(store string) {
	n.t.Helper()
	for _, arguments := range [][]string{{"failed", "-o", "json"}, {"failed"}, {"status", "-o", "json"}, {"status"}} {
		n.planner(arguments...).exits(0)
	}
	for _, p := range n.all {
		n.hides(strings.Join(p.command.Args, " "), p.all.String())
	}
	// The reasons are there, without the secrets.
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

// searchChildren looks at what skopeo and the helpers were started with. A proxy's
// password is of use only to them, and so are those of clouds and what CHILD_ENV names.
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

// TestSecretsStaySecret plants secrets in every place where they can be given, has
// everybody who gets one show it, and searches what people and processes can see.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	for name, admit := range map[string]func(n *nosy, o *server.Options){
		"user and password": func(n *nosy, o *server.Options) {
			o.Username, o.Password = "worker", n.planted["NATS_PASSWORD"]
			n.env["NATS_USER"], n.env["NATS_PASSWORD"] = "worker", n.planted["NATS_PASSWORD"]
		},
		"URL": func(n *nosy, o *server.Options) {
			o.Username, o.Password = "worker", n.planted["NATS_URL"]
		},
		"token": func(n *nosy, o *server.Options) {
			o.Authorization = n.planted["NATS_TOKEN"]
			n.env["NATS_TOKEN"] = n.planted["NATS_TOKEN"]
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNosy(t)
			store := t.TempDir()
			guarded := brokertest.Start(t, func(o *server.Options) { o.StoreDir = store; admit(n, o) })
			n.env["NATS_URL"] = guarded.URL()
			if name == "URL" {
				n.env["NATS_URL"] = (&url.URL{Scheme: "nats", User: url.UserPassword("worker", n.planted["NATS_URL"]),
					Host: strings.TrimPrefix(guarded.URL(), "nats://")}).String()
			}
			n.env["LOG_FORMAT"] = map[bool]string{true: "json", false: "text"}[name == "token"]
			n.planner("plan").exits(0)
			n.env["METRICS_ADDR"] = closedPort(t)
			worker := start(t, n.env, "", "worker")
			n.all = append(n.all, worker)
			n.fails()
			n.requireMirrored("osism/good")
			n.hides("metrics", metricsAt(t, n.env["METRICS_ADDR"]))
			worker.signal(syscall.SIGTERM)
			worker.exits(0)
			n.requireNoSecrets(store)
		})
	}
}

func metricsAt(t *testing.T, address string) string {
	t.Helper()
	var text strings.Builder
	require.Eventually(t, func() bool {
		response, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK && response.Write(&text) == nil
	}, patience, tick)
	require.Contains(t, text.String(), "skopeo_worker_")
	return text.String()
}

// gaveUp reports whether a process has given up every named image.
func (n *nosy) gaveUp(p *process) bool {
	for _, repository := range leaking {
		if !regexp.MustCompile(`msg="an image failed".* image=\S+/` + repository + `\b`).MatchString(p.all.String()) {
			return false
		}
	}
	return true
}

// TestSecretsStaySecretOnOneMachine is the same for planner check, mirror and republish.
func TestSecretsStaySecretOnOneMachine(t *testing.T) {
	t.Parallel()
	n := newNosy(t)
	n.planner("check").exits(1)
	for _, command := range [][]string{{"mirror"}, {"republish", "--all"}} {
		p := n.planner(command...)
		require.Eventually(t, func() bool { return n.via.Load() > 0 && n.gaveUp(p) }, patience, tick)
		_ = p.command.Process.Signal(syscall.SIGTERM) // it may have ended
		<-p.ended
	}
	n.requireMirrored("osism/good")
	n.requireNoSecrets(n.env["DATA_DIR"])
}
