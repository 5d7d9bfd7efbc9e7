package skopeo_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/scripttest"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
	"github.com/stretchr/testify/require"
)

const source, destination = "osism/tool", "mirror/osism/tool"

// deadline bounds waits that usually take milliseconds.
const deadline = 10 * time.Second

// pair starts two registries, the first with an image, and returns a runner for them.
func pair(t *testing.T) (from, to *registrytest.Registry, digest string, r *skopeo.Runner) {
	t.Helper()
	from, to = registrytest.New(t), registrytest.New(t)
	digest, err := from.PushImage(source, "1", registrytest.Image{})
	require.NoError(t, err)
	return from, to, digest, &skopeo.Runner{Insecure: []string{from.Host(), to.Host()}}
}

func copyImage(ctx context.Context, r *skopeo.Runner, from, to *registrytest.Registry, digest string) error {
	return r.CopyManifest(ctx, reference.MustRepository(from.Host()+"/"+source), reference.MustDigest(digest), reference.MustRepository(to.Host()+"/"+destination))
}

func TestVersion(t *testing.T) {
	version, err := new(skopeo.Runner).Version(t.Context())
	require.NoError(t, err)
	require.Regexp(t, `^\d+\.\d+`, version)

	_, err = (&skopeo.Runner{Path: "/no/such/skopeo"}).Version(t.Context())
	require.ErrorIs(t, err, skopeo.ErrNotInstalled)
	require.EqualError(t, err,
		`skopeo is not installed: program "/no/such/skopeo" not found; install skopeo 1.9.3 or newer, set SKOPEO_PATH, or copy without it: COPY_ENGINE=builtin`)

	closed := filepath.Join(t.TempDir(), "skopeo")
	require.NoError(t, os.WriteFile(closed, nil, 0o600))
	_, err = (&skopeo.Runner{Path: closed}).Version(t.Context())
	require.ErrorIs(t, err, skopeo.ErrNotInstalled)
	require.ErrorContains(t, err, `this user may not run program "`+closed+`" (permission denied)`)

	_, err = (&skopeo.Runner{Path: "true"}).Version(t.Context())
	require.EqualError(t, err, `true --version does not print "skopeo version" and a version; check SKOPEO_PATH`)
}

// TestOldVersion: Version refuses an old skopeo, with which each image would fail. It accepts versions
// that cannot be compared.
func TestOldVersion(t *testing.T) {
	for version, old := range map[string]bool{
		"1.4.1": true, "1.9.2": true, "0.2.0": true, "1.9.3": false, "1.9.3-dev": false, "1.18.0 commit: abc": false, "2.0": false, "main": false,
	} {
		path := filepath.Join(t.TempDir(), "skopeo")
		scripttest.Write(t, path, "echo skopeo version "+version)
		_, err := (&skopeo.Runner{Path: path}).Version(t.Context())
		if !old {
			require.NoError(t, err, version)
			continue
		}
		require.ErrorIs(t, err, skopeo.ErrTooOld)
		require.ErrorContains(t, err, "is version "+version+"; install skopeo 1.9.3 or newer")
	}
}

func TestCopy(t *testing.T) {
	from, to, digest, r := pair(t)
	require.NoError(t, copyImage(t.Context(), r, from, to, digest))
	want, err := from.Manifest(source, digest)
	require.NoError(t, err)
	got, err := to.Manifest(destination, digest)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, 1, from.Pulls())
	tags, err := to.Tags(destination)
	if !errors.Is(err, registrytest.ErrNotFound) {
		require.NoError(t, err)
	}
	require.Empty(t, tags)
}

func TestLimitedAtOnce(t *testing.T) {
	for _, test := range []struct {
		name       string
		retryAfter string
		want       time.Duration
	}{{"unknown", "", 0}, {"known", "30", 30 * time.Second}} {
		t.Run(test.name, func(t *testing.T) {
			from, to, digest, r := pair(t)
			from.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindManifestGet), Status: 429,
				Header: http.Header{"Retry-After": {test.retryAfter}}, Body: "<html>"})
			err := copyImage(t.Context(), r, from, to, digest)
			require.ErrorIs(t, err, skopeo.ErrLimited)
			require.EqualError(t, err, "too many requests to "+from.Host())
			var failed *skopeo.Error
			require.ErrorAs(t, err, &failed)
			require.Equal(t, test.want, failed.RetryAfter)
			require.Equal(t, from.Host(), failed.Registry)
			require.Equal(t, 1, from.Pulls(), "skopeo does not go on asking")
		})
	}
}

func TestTimeout(t *testing.T) {
	from, to, digest, r := pair(t)
	from.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindBlobGet), Hang: true})
	r.Timeout = 300 * time.Millisecond
	err := copyImage(t.Context(), r, from, to, digest)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.EqualError(t, err, "the copy took longer than COPY_TIMEOUT (300ms)")
}

func TestCancelEndsTheProcess(t *testing.T) {
	from, to, digest, r := pair(t)
	from.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindBlobGet), Hang: true})
	asked := from.Notify(registrytest.Kinds(registrytest.KindBlobGet))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { <-asked; cancel() }()
	err := copyImage(ctx, r, from, to, digest)
	require.ErrorIs(t, err, context.Canceled)
	require.EqualError(t, err, "interrupted")
}

// script returns a runner whose program is a shell script.
func script(t *testing.T, lines string) *skopeo.Runner {
	t.Helper()
	path := filepath.Join(t.TempDir(), "skopeo")
	scripttest.Write(t, path, lines)
	return &skopeo.Runner{Path: path}
}

// TestGroupIsKilled: skopeo and its helper die, although both ignore SIGTERM.
func TestGroupIsKilled(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	require.NoError(t, syscall.Mkfifo(pids, 0o600))
	r := script(t, fmt.Sprintf(`trap "" TERM; sleep 600 & echo $$ $! >%s; wait; sleep 600`, pids))
	r.Grace = 100 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- r.CopyManifest(ctx, reference.MustRepository("a.example/b"), reference.DigestOf(nil), reference.MustRepository("c.example/d"))
	}()
	line, err := os.ReadFile(pids)
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	for _, pid := range strings.Fields(string(line)) {
		require.Eventually(t, func() bool { return gone(pid) }, deadline, time.Millisecond, "process %s", pid)
	}
}

// gone reports whether a process has ended.
func gone(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// TestNoOrphans: if a process that runs a copy is killed, the copy dies with it.
func TestNoOrphans(t *testing.T) {
	const role, pids = "SKOPEO_TEST_PARENT", "SKOPEO_TEST_PIDS"
	if path := os.Getenv(role); path != "" {
		_ = (&skopeo.Runner{Path: path}).CopyManifest(context.Background(), reference.MustRepository("a.example/b"), reference.DigestOf(nil), reference.MustRepository("c.example/d"))
		return
	}
	r := script(t, `echo $$ >"$`+pids+`"; exec sleep 600`)
	fifo := filepath.Join(t.TempDir(), "pid")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	parent := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNoOrphans$")
	parent.Env = append(os.Environ(), role+"="+r.Path, pids+"="+fifo)
	require.NoError(t, parent.Start())
	opened, err := os.Open(fifo)
	require.NoError(t, err)
	defer opened.Close()
	line, err := bufio.NewReader(opened).ReadString('\n')
	require.NoError(t, err)
	pid := strings.TrimSpace(line)
	require.False(t, gone(pid))
	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait()
	require.Eventually(t, func() bool { return gone(pid) }, deadline, time.Millisecond)
}

func TestReasons(t *testing.T) {
	const log = `printf "%s\n" 'time="2026-01-01T00:00:00Z" level=`
	for name, test := range map[string]struct{ script, reason string }{
		"the last fatal message": {log + `warning msg="Unable to find it"' >&2; ` + log + `fatal msg="reading \"x\":\nEOF"' >&2; ` +
			log + `debug msg="bye"' >&2; exit 1`, `reading "x": EOF`},
		"one word":      {log + `fatal msg=EOF' >&2; exit 1`, "EOF"},
		"no log":        {`echo "Error: unknown flag" >&2; exit 1`, "Error: unknown flag"},
		"a crash":       {`echo "panic: nil" >&2; echo "goroutine 1" >&2; exit 2`, "panic: nil"},
		"silence":       {`exit 3`, "skopeo failed without a message (exit status 3)"},
		"a signal":      {`kill -KILL $$`, "skopeo was ended by a signal: killed"},
		"secrets":       {log + `fatal msg="Get https://bob:hunter2@quay.io/v2?sig=1: Bearer eyJhbGciOiJSUz"' >&2; exit 1`, "Get https://quay.io/v2?xxxxx: Bearer xxxxx"},
		"after a flood": {`i=0; while [ $i -lt 3000 ]; do echo "a line that is long enough to fill it"; i=$((i+1)); done >&2; ` + log + `fatal msg="the end"' >&2; exit 1`, "the end"},
	} {
		t.Run(name, func(t *testing.T) {
			err := script(t, test.script).CopyManifest(t.Context(), reference.MustRepository("a.example/b"), reference.DigestOf(nil), reference.MustRepository("c.example/d"))
			require.EqualError(t, err, test.reason)
		})
	}
}

func TestArguments(t *testing.T) {
	r := script(t, `echo "$@" >&2; exit 1`)
	r.Insecure = []string{"c.example:5000"}
	withoutPolicy(t, r)
	digest := reference.DigestOf(nil)
	err := r.CopyManifest(t.Context(), reference.MustRepository("a.example/b"), digest, reference.MustRepository("c.example:5000/d"))
	require.EqualError(t, err, "--debug copy --preserve-digests --remove-signatures --dest-tls-verify=false "+
		"docker://a.example/b@"+digest.String()+" docker://c.example:5000/d@"+digest.String())
}

// TestPullDeadline: a copy ends if it does not request its manifest in time. Afterwards, it may take
// any time.
func TestPullDeadline(t *testing.T) {
	from, to, digest, r := pair(t)
	remove := from.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindPing), Hang: true})
	late := budget.WithDeadline(t.Context(), time.Now().Add(100*time.Millisecond))
	require.ErrorIs(t, copyImage(late, r, from, to, digest), budget.ErrLate)
	remove()

	// A process that was suspended sends no request.
	from.ResetRequests()
	require.ErrorIs(t, copyImage(budget.WithDeadline(t.Context(), time.Now()), r, from, to, digest), budget.ErrLate)
	require.Empty(t, from.Requests())

	held := make(chan struct{})
	from.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindManifestGet), Gate: held})
	deadline, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	by, _ := deadline.Deadline()
	context.AfterFunc(deadline, func() { close(held) })
	require.NoError(t, copyImage(budget.WithDeadline(t.Context(), by), r, from, to, digest))
}

// TestEchoedToken: the error hides a token that skopeo has requested itself, if the registry repeats
// it.
func TestEchoedToken(t *testing.T) {
	var sent string
	for name, write := range map[string]func(scheme, value string) string{
		"header": func(scheme, value string) string { return scheme + " " + value },
		"text":   func(_, value string) string { return "no " + value },
		"JSON": func(_, value string) string {
			return `{"errors":[{"code":"DENIED","message":"token ` + value + ` is not good for this"}]}`
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, to, digest, r := pair(t)
			guarded := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true}))
			r.Insecure = append(r.Insecure, guarded.Host())
			guarded.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindManifestGet), Status: http.StatusForbidden,
				Echo: func(scheme, value string) string { sent = value; return write(scheme, value) }})
			err := copyImage(t.Context(), r, guarded, to, digest)
			require.Error(t, err)
			require.NotEmpty(t, sent)
			require.NotContains(t, err.Error(), sent[:8])
			require.Contains(t, err.Error(), "xxxxx")
			require.Contains(t, err.Error(), digest)
		})
	}
}
