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
	// patience bounds actions that take seconds. It is shorter than the AckWait of the consumer of
	// the workers (a minute), so that no test passes only because the broker has redelivered a
	// chunk.
	patience = 45 * time.Second
	// redelivery bounds actions after a restart of the broker. If the broker was sending a chunk,
	// it sends it again only after AckWait.
	redelivery = broker.AckWait + patience
	// tick is the interval for checking conditions without events.
	tick = 100 * time.Millisecond
	// asking is the interval for starting a command to check a condition. Each start costs
	// processor time that the test needs.
	asking = 500 * time.Millisecond
	// closing is how long the output of an ended process may take to arrive.
	closing = 5 * time.Second
	// raceSettings let commands with the race detector exit at once. By default, they wait for a
	// second.
	raceSettings = "GORACE=atexit_sleep_ms=0"
)

// process is a running command.
type process struct {
	t        *testing.T
	command  *exec.Cmd
	stdout   output // what is said on stdout
	all      output // and on stderr, too
	ended    chan struct{}
	exitCode int // once ended is closed
}

// engine is the COPY_ENGINE of all tests that do not set one: the value of the environment, or
// skopeo.
func engine() string { return cmp.Or(os.Getenv("COPY_ENGINE"), "skopeo") }

// root is the root of the worker's image. If it is set, the commands in it are tested. /tmp, /dev
// and /proc of this machine are mounted there: see scripts/test-worker-root.
func root() string { return os.Getenv("ACCEPTANCE_ROOT") }

// start runs a command with these variables, and without others of the planner and the worker. The
// process is killed when the test ends.
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

// exits waits for the end of the process, and returns its output.
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

// says waits until the output of the process contains the text.
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

// kill kills the process with SIGKILL, and waits for its end.
func (p *process) kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	<-p.ended
}

// output collects the output of a process, and signals each new part.
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

// tee writes to both writers.
type tee struct{ first, second *output }

func (t tee) Write(piece []byte) (int, error) {
	_, _ = t.first.Write(piece)
	return t.second.Write(piece)
}
