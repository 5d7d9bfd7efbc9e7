package acceptance

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
)

const (
	// patience bounds what takes seconds. It is shorter than the AckWait of the
	// workers' consumer (a minute): no test passes because a chunk was given up
	// for lost, unless it says so.
	patience = 45 * time.Second
	// redelivery is for what follows the restart of a broker. A chunk that it was
	// sending then comes again only after AckWait.
	redelivery = broker.AckWait + patience
	// tick is how often a condition without an event of its own is looked at.
	tick = 100 * time.Millisecond
	// asking is how often a command is started to look at one: each costs a part of a second
	// of a processor that the test waits for.
	asking = 500 * time.Millisecond
	// closing is what the pipes of an ended process get to be read to their end.
	closing = 5 * time.Second
	// raceSettings spare commands that were built with the race detector the second
	// that they otherwise wait before they exit.
	raceSettings = "GORACE=atexit_sleep_ms=0"
)

// process is a command under way.
type process struct {
	t        *testing.T
	command  *exec.Cmd
	stdout   output // what is said on stdout
	all      output // and on stderr, too
	ended    chan struct{}
	exitCode int // once ended is closed
}

// engine is the COPY_ENGINE of all tests that do not set one: that of the environment, or
// else skopeo.
func engine() string { return cmp.Or(os.Getenv("COPY_ENGINE"), "skopeo") }

// root is the root of the worker's image, whose commands are tested if it is set. This
// machine's /tmp, /dev and /proc are mounted there: see scripts/test-worker-root.
func root() string { return os.Getenv("ACCEPTANCE_ROOT") }

// start runs a command with these variables and no others of ours. It is killed
// when the test ends.
func start(t *testing.T, env map[string]string, stdin, name string, arguments ...string) *process {
	t.Helper()
	p := &process{t: t, command: exec.Command(filepath.Join(bin, name), arguments...), ended: make(chan struct{})}
	p.stdout.next, p.all.next = make(chan struct{}), make(chan struct{})
	p.command.Dir = t.TempDir()
	p.command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.command.Dir, raceSettings, "COPY_ENGINE=" + engine()}
	for k, v := range env {
		p.command.Env = append(p.command.Env, k+"="+v)
	}
	p.command.Stdin = strings.NewReader(stdin)
	p.command.Stdout = tee{&p.stdout, &p.all}
	p.command.Stderr = &p.all
	p.command.WaitDelay = closing
	if root() != "" {
		p.command.Path = filepath.Join("/usr/local/bin", name)
		p.command.SysProcAttr = &syscall.SysProcAttr{Chroot: root()}
	}
	require.NoError(t, p.command.Start())
	go func() {
		_ = p.command.Wait()
		p.exitCode = p.command.ProcessState.ExitCode()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.command.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("%s %s: exit code %d\n%s", name, strings.Join(arguments, " "), p.exitCode, p.all.String())
		}
	})
	return p
}

// exits waits for the end of the process, and returns all that it said.
func (p *process) exits(code int) string {
	p.t.Helper()
	return p.exitsWithin(patience, code)
}

func (p *process) exitsWithin(wait time.Duration, code int) string {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(wait):
		require.Fail(p.t, "the process does not end", p.all.String())
	}
	require.Equal(p.t, code, p.exitCode, p.all.String())
	return p.all.String()
}

// says waits until the process has said the text.
func (p *process) says(text string) {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		said, next := p.all.read()
		if strings.Contains(said, text) {
			return
		}
		select {
		case <-next:
		case <-deadline:
			require.Fail(p.t, "the process does not say "+text, said)
		}
	}
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.command.Process.Signal(s))
}

// kill is a kill -9, after which the process is gone.
func (p *process) kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	<-p.ended
}

// output collects what a process prints, and announces every piece.
type output struct {
	mu   sync.Mutex
	text strings.Builder
	next chan struct{} // closed with the next piece
}

func (o *output) Write(piece []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.next)
	o.next = make(chan struct{})
	return o.text.Write(piece)
}

func (o *output) read() (said string, next <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String(), o.next
}

func (o *output) String() string {
	said, _ := o.read()
	return said
}

// tee writes to both.
type tee struct{ first, second *output }

func (t tee) Write(piece []byte) (int, error) {
	_, _ = t.first.Write(piece)
	return t.second.Write(piece)
}
