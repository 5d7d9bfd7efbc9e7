package child

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// dieWithParent has the kernel kill the process if this one is killed. The reaper ends the
// processes that it has started.
func dieWithParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGKILL }

// With one of these names as argument 0, this program is a reaper or starts one. The only
// argument is the mark of the processes to end.
const (
	reaperName  = "copy-reaper"
	starterName = "copy-reaper-start"
)

// reaperPause is the time until a reaper that has died is replaced.
const reaperPause = time.Second

// Every program with this package can be its own reaper. So no second program is needed, and
// the reaper cannot have been removed or replaced.
func init() {
	if len(os.Args) != 2 {
		return
	}
	switch os.Args[0] {
	case starterName:
		// The reaper is not a child of the worker, whose children are its copies.
		if _, err := startReaper(reaperName, os.Args[1], os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
	case reaperName:
		// The reaper must outlive the worker, but systemd sends SIGTERM to all at once.
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
		_, _ = os.Stdout.Write([]byte{'\n'})
		_, _ = io.Copy(io.Discard, os.Stdin) // until the worker, which has the other end, is gone
		sweep(os.Args[1])
	default:
		return
	}
	os.Exit(0)
}

func startReaper(name, mark string, life, ready *os.File) (*exec.Cmd, error) {
	c := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{name, mark}, Dir: "/", Env: []string{},
		Stdin: life, Stdout: ready,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true}, // no signals of this terminal and process group
	}
	return c, c.Start()
}

// Guard starts the reaper, a process that outlives this one, however it dies, and then ends
// the processes that it has left. A reaper that dies is replaced. Further calls do nothing.
func Guard() error { return guard() }

var guard = sync.OnceValue(func() error {
	r, err := newReaper()
	if err != nil {
		return fmt.Errorf("starting the reaper, which ends copies after this process has died: %w", err)
	}
	go func() {
		for {
			<-r.died
			time.Sleep(reaperPause)
			if next, err := newReaper(); err == nil {
				_ = r.life.Close()
				r = next
			}
		}
	}()
	return nil
})

// reaper is a running reaper.
type reaper struct {
	life *os.File      // a pipe that is open as long as this process lives
	died chan struct{} // closed when the reaper has died
}

// newReaper starts a reaper and waits until it is ready.
func newReaper() (*reaper, error) {
	theirs, life, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	ready, answer, err := os.Pipe()
	if err != nil {
		_ = life.Close()
		return nil, err
	}
	starter, err := startReaper(starterName, self+".", theirs, answer)
	_ = answer.Close()
	if err == nil {
		go func() { _ = starter.Wait() }()
		_, err = ready.Read(make([]byte, 1))
	}
	if err != nil {
		_, _ = ready.Close(), life.Close()
		return nil, err
	}
	r := &reaper{life: life, died: make(chan struct{})}
	go func() {
		_, _ = io.Copy(io.Discard, ready)
		_ = ready.Close()
		close(r.died)
	}()
	return r, nil
}
