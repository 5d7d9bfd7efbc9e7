package command

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

var quiet = slog.New(slog.DiscardHandler)

// execute runs a command line. It returns the output, with the error message at its end, and the
// exit code.
func execute(t *testing.T, arguments ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	c := New()
	c.SetArgs(arguments)
	c.SetOut(&out)
	c.SetErr(&out)
	err := c.ExecuteContext(t.Context())
	return out.String() + Message(err), exit.Code(err)
}

// TestNoStore: a command that only reads creates no store, and reports that there is none.
func TestNoStore(t *testing.T) {
	for _, arguments := range [][]string{
		{"status"}, {"status", "--watch"}, {"failed"}, {"changes"}, {"cancel"}, {"forget", "--left-list"}, {"republish", "--all"},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		t.Setenv("DATA_DIR", dir)
		said, code := execute(t, arguments...)
		require.Equal(t, 2, code, arguments)
		require.Equal(t, "no store: nothing has run here: DATA_DIR="+dir+"; set DATA_DIR to the folder of planner mirror, or NATS_URL to the broker of the workers", said)
		require.NoDirExists(t, dir, arguments)
	}
}

// TestHelp: help shows usage and flags first, then exactly the variables that the command reads.
func TestHelp(t *testing.T) {
	for _, c := range New().Commands() {
		help, code := execute(t, c.Name(), "--help")
		require.Zero(t, code)
		require.True(t, strings.HasPrefix(help, "Usage:\n  planner "+c.Name()), help)
		require.Contains(t, help, "\nExit codes:\n")
		again, code := execute(t, "help", c.Name())
		require.Zero(t, code)
		require.Equal(t, help, again)
	}
	help, _ := execute(t, "status", "--help")
	require.Less(t, strings.Index(help, "--watch"), strings.Index(help, "\nEnvironment variables:\n"))
	require.Contains(t, help, "MIRROR_NAME")
	for _, unread := range []string{"MIRROR_SOURCE_URL", "FILTER", "WORKER_CONCURRENCY", "UI_ADDR", "NOTIFY_URLS"} {
		require.NotContains(t, help, unread)
	}
	help, _ = execute(t, "serve", "--help")
	for _, read := range []string{"MIRROR_SOURCE_URL", "WORKER_CONCURRENCY", "UI_ADDR", "NOTIFY_URLS", "MIRROR_SCHEDULE"} {
		require.Contains(t, help, read)
	}
	help, code := execute(t)
	require.Zero(t, code)
	require.NotContains(t, help, "MIRROR_NAME")
}

func TestUnknownNames(t *testing.T) {
	for arguments, want := range map[string]string{
		"statsu":                       `unknown command "statsu" for "planner"; is status meant?`,
		"help statsu":                  `wrong usage: unknown command "statsu" for "planner"; is status meant?`,
		"status --wach":                `wrong usage: unknown flag: --wach; planner status --help lists the flags`,
		"help status now":              `wrong usage: unexpected "now"`,
		"completion tcsh":              `wrong usage: expected one of bash, fish, powershell, zsh, found "tcsh"`,
		"completion":                   `wrong usage: expected one of bash, fish, powershell, zsh, found ""`,
		"prune --execute p --max 5%":   "wrong usage: --max cannot be used with --execute",
		"prune --execute p --grace 5d": "wrong usage: --grace cannot be used with --execute",
		"check --access --signatures":  "wrong usage: --signatures cannot be used with --access",
		"completion bahs":              `wrong usage: expected one of bash, fish, powershell, zsh, found "bahs"`,
	} {
		said, code := execute(t, strings.Fields(arguments)...)
		require.Equal(t, 2, code, arguments)
		require.Contains(t, said, want)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		script, code := execute(t, "completion", shell)
		require.Zero(t, code)
		require.Contains(t, script, "planner")
	}
}

func TestNearMissesAreNamed(t *testing.T) {
	t.Setenv("CHUNKSIZE", "5")
	t.Setenv("DATA_DIR", t.TempDir())
	said, _ := execute(t, "status")
	require.Contains(t, said, "warning: CHUNKSIZE is set but not read; is CHUNK_SIZE meant?\n")
	said, _ = execute(t, "completion", "bash")
	require.NotContains(t, said, "CHUNKSIZE")
}

// TestReadyBeforeItPublishes: without skopeo, a command publishes and serves nothing, and creates
// no store.
func TestReadyBeforeItPublishes(t *testing.T) {
	dir := t.TempDir()
	list, torn, store := filepath.Join(dir, "list.yml"), filepath.Join(dir, "auth.json"), filepath.Join(dir, "data")
	require.NoError(t, os.WriteFile(list, []byte("containers: [nginx]"), 0o600))
	require.NoError(t, os.WriteFile(torn, []byte(`{"auths": {`), 0o600))
	for _, c := range []struct{ variable, value, want string }{
		{"SKOPEO_PATH", "/no/such/skopeo", `skopeo is not installed: program "/no/such/skopeo" not found; install skopeo 1.9.3 or newer, set SKOPEO_PATH, or copy without it: COPY_ENGINE=builtin`},
		{"REGISTRY_AUTH_FILE", filepath.Join(dir, "none.json"), "credentials file: open " + filepath.Join(dir, "none.json") + ": no such file or directory"},
		{"REGISTRY_AUTH_FILE", dir, "credentials file: read " + dir + ": is a directory"},
		{"REGISTRY_AUTH_FILE", torn, "credentials file " + torn + ": not valid JSON"},
	} {
		t.Run(c.value, func(t *testing.T) {
			for _, command := range []string{"mirror", "serve"} {
				t.Setenv("MIRROR_SOURCE_URL", list)
				t.Setenv("MIRROR_DEST_URL", "127.0.0.1:5000")
				t.Setenv("DATA_DIR", store)
				t.Setenv("UI_ADDR", "127.0.0.1:0")
				t.Setenv(c.variable, c.value)
				said, code := execute(t, command)
				require.Equal(t, 2, code, said)
				require.Contains(t, said, c.want)
				require.NoDirExists(t, store)
			}
		})
	}
}

// TestMirrorAsJSON: standard output has one status per line as JSON. In the last one, the run is
// over.
func TestMirrorAsJSON(t *testing.T) {
	r := registrytest.New(t)
	_, err := r.PushImage("team/app", "1", registrytest.Image{})
	require.NoError(t, err)
	list := filepath.Join(t.TempDir(), "list.yml")
	require.NoError(t, os.WriteFile(list, []byte("containers: ['"+r.Host()+"/team/app']"), 0o600))
	set := func() { // a command takes its environment out of the process
		t.Setenv("MIRROR_SOURCE_URL", list)
		t.Setenv("MIRROR_DEST_URL", r.Host()+"/mirror")
		t.Setenv("INSECURE_REGISTRIES", r.Host())
		t.Setenv("COPY_ENGINE", "builtin")
		t.Setenv("DATA_DIR", filepath.Join(filepath.Dir(list), "data"))
	}
	run := func(arguments ...string) string {
		set()
		var out, messages bytes.Buffer
		c := New()
		c.SetArgs(arguments)
		c.SetOut(&out)
		c.SetErr(&messages)
		require.NoError(t, c.ExecuteContext(t.Context()), messages.String())
		return out.String()
	}
	var chunks []map[string]any
	require.NoError(t, json.Unmarshal([]byte(run("plan", "--dry-run", "-o", "json")), &chunks))
	require.Len(t, chunks, 1)
	require.Equal(t, []any{r.Host() + "/team/app"}, chunks[0]["entries"])

	var last struct {
		State  string         `json:"state"`
		Images map[string]int `json:"images"`
	}
	for line := range strings.Lines(run("mirror", "-o", "json")) {
		require.NoError(t, json.Unmarshal([]byte(line), &last), line)
	}
	require.Equal(t, "done", last.State)
	require.Equal(t, 1, last.Images["copied"])

	set()
	said, code := execute(t, "plan", "-o", "json")
	require.Equal(t, 2, code)
	require.Equal(t, "wrong usage: -o json needs --wait or --dry-run", said)
	said, code = execute(t, "status", "--color", "sometimes")
	require.Equal(t, 2, code)
	require.Contains(t, said, "expected auto, always or never")
}

// keep stores a run with a failure in its second chunk, and returns the URL of the broker.
func keep(t *testing.T, name string) string {
	t.Helper()
	server := brokertest.Start(t)
	b := brokertest.Open(t, server.Config())
	runs, err := run.Open(t.Context(), b)
	require.NoError(t, err)
	require.NoError(t, runs.Put(t.Context(), run.Run{Name: name, ID: run.NewID(time.Now()), Kind: run.KindPlan, Started: time.Now(), Published: true}))
	require.NoError(t, failure.NewStore(b, quiet).Add(t.Context(), name, failure.Record{
		Repository: "quay.io/osism/a", Registry: "quay.io", Chunk: 2, Run: "20260301-124800-000-abcd", FailedAt: time.Now(),
		Images: []failure.Image{{Source: "quay.io/osism/a:1", Attempts: 1, Reason: "denied"}},
	}))
	return server.URL()
}

// TestCompletion: the shell proposes runs, and repositories with failures. It never prints an
// error.
func TestCompletion(t *testing.T) {
	url := keep(t, "nightly")
	t.Setenv("MIRROR_NAME", "nightly")
	t.Setenv("NATS_URL", url)
	proposed := func(arguments ...string) string {
		said, code := execute(t, append([]string{"__complete"}, arguments...)...)
		require.Zero(t, code)
		found, _, _ := strings.Cut(said, ":")
		return found
	}
	for _, command := range []string{"status", "cancel", "changes"} {
		require.Regexp(t, `^\d{8}-\d{6}-\d{3}-[0-9a-f]{4}\n$`, proposed(command, ""), command)
		require.Empty(t, proposed(command, "one", ""))
	}
	for _, command := range []string{"republish", "forget"} {
		require.Equal(t, "quay.io/osism/a\n", proposed(command, ""))
		require.Empty(t, proposed(command, "quay.io/osism/a", ""), "it is there already")
	}
	require.Equal(t, "2\n", proposed("republish", "--chunk", ""))
	require.Equal(t, "json\n", proposed("status", "-o", ""))
	require.Contains(t, proposed("help", ""), "status")
	require.Contains(t, proposed("completion", ""), "zsh")

	t.Setenv("NATS_URL", "")
	t.Setenv("DATA_DIR", filepath.Join(t.TempDir(), "data"))
	require.Empty(t, proposed("status", ""))
}

func TestNamesAreListed(t *testing.T) {
	url := keep(t, "nightly")
	t.Setenv("NATS_URL", url)
	said, code := execute(t, "failed", "--exit-code")
	require.Zero(t, code)
	require.Equal(t, "There are no failed images under the name default.\nSet MIRROR_NAME to see those of another name: nightly.\n", said)
	said, code = execute(t, "status")
	require.Equal(t, 2, code)
	require.Contains(t, said, "nothing has run under the name default in the last 30 days; MIRROR_NAME can be nightly")
	said, _ = execute(t, "republish", "--chunk", "2")
	require.Contains(t, said, "no failures of chunk 2 are recorded under the name default")

	t.Setenv("NATS_URL", url) // the command has taken it out of the environment
	t.Setenv("MIRROR_NAME", "nightly")
	_, code = execute(t, "failed")
	require.Zero(t, code)
	said, code = execute(t, "failed", "--exit-code")
	require.Equal(t, 1, code)
	require.Contains(t, said, "quay.io/osism/a:1, 1 attempt")
	said, code = execute(t, "republish", "--chunk", "99")
	require.Equal(t, 2, code)
	require.Equal(t, "wrong usage: no failures of chunk 99 are recorded under the name nightly; planner failed lists them", said)
}

// TestCheckAccess: the output has a line for the list, the broker and each registry. The exit code
// states whether all can be used.
func TestCheckAccess(t *testing.T) {
	r := registrytest.New(t, registrytest.WithBasicAuth("user", "password"))
	server := brokertest.Start(t)
	_, err := r.PushImage("private/tool", "1", registrytest.Image{})
	require.NoError(t, err)
	for password, wants := range map[string][]string{
		"password": {r.Host() + " (destination): permits pushing to " + r.Host() + "/mirror/team/app\n"},
		"other":    {"FAILED: " + r.Host() + " (destination): ", "FAILED: a namespace could not be listed: " + r.Host() + "/private/* in line 1: "},
	} {
		t.Run(password, func(t *testing.T) {
			list, login := filepath.Join(t.TempDir(), "list.yaml"), filepath.Join(t.TempDir(), "auth.json")
			require.NoError(t, os.WriteFile(list, []byte("containers: ["+r.Host()+"/team/app, "+r.Host()+"/team/web, "+r.Host()+"/private/*]"), 0o600))
			auth := base64.StdEncoding.EncodeToString([]byte("user:" + password))
			require.NoError(t, os.WriteFile(login, []byte(`{"auths":{"`+r.Host()+`":{"auth":"`+auth+`"}}}`), 0o600))
			t.Setenv("MIRROR_SOURCE_URL", list)
			t.Setenv("MIRROR_DEST_URL", r.Host()+"/mirror")
			t.Setenv("INSECURE_REGISTRIES", r.Host())
			t.Setenv("REGISTRY_AUTH_FILE", login)
			t.Setenv("NATS_URL", server.URL())
			said, code := execute(t, "check", "--access")
			require.Contains(t, said, "list: "+list+": 3 entries\nbroker: nats://")
			for _, want := range wants {
				require.Contains(t, said, want)
			}
			require.NotContains(t, said, auth)
			require.Equal(t, map[string]int{"password": 0, "other": 1}[password], code, said)
		})
	}
	require.Zero(t, r.Pulls())
}
