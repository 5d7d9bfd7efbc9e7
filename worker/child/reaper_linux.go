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

// dieWithParent lets the kernel kill the process when we are killed. What it has started
// itself is left to the reaper.
func dieWithParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGKILL }

// The names under which our own program is a reaper, and starts one. Its argument is the
// mark of the processes to end.
const (
	reaperName  = "copy-reaper"
	starterName = "copy-reaper-start"
)

// reaperPause is before a reaper that has died is replaced.
const reaperPause = time.Second

// Every program that has this package is also its reaper: that costs no second program,
// and the one that runs cannot have been removed or replaced.
func init() {
	if len(os.Args) != 2 {
		return
	}
	switch os.Args[0] {
	case starterName:
		// Nobody's child: who counts the children of a worker counts its copies.
		if _, err := startReaper(reaperName, os.Args[1], os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
	case reaperName:
		// It ends after us, and no sooner: systemd sends SIGTERM to all at once.
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
		_, _ = os.Stdout.Write([]byte{'\n'})
		_, _ = io.Copy(io.Discard, os.Stdin) // until whoever has the other end is gone
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
		SysProcAttr: &syscall.SysProcAttr{Setsid: true}, // signals of our terminal and group are not for it
	}
	return c, c.Start()
}

// Guard starts a process that outlives this one, however it dies, and then ends what is
// left of the processes that this one has started: the reaper. Should it die, another one
// takes its place. Further calls do nothing.
func Guard() error { return guard() }

var guard = sync.OnceValue(func() error {
	r, err := newReaper()
	if err != nil {
		return fmt.Errorf("starting what ends copies after this process has died: %w", err)
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

// reaper is one that runs.
type reaper struct {
	life *os.File      // our end of what is open for as long as we live
	died chan struct{} // closed when it has died
}

// newReaper starts a reaper, and returns once it is there.
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
