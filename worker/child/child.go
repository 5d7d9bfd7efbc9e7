// Package child runs a process and ends it, with all processes that it has started, when its
// context ends, when this process dies, or when its connections move no byte for too long.
//
// It finds the processes by parentage, and by an environment variable, which is inherited
// across sessions and process groups. The kernel reports the bytes of their connections. Both
// need Linux. On other systems, only the process group is ended, only when the context ends,
// and stalls are not noticed.
package child

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// defaultGrace is the time between SIGTERM and SIGKILL. A copy has nothing to save; it only
// has to close its connections.
const defaultGrace = 5 * time.Second

// variable is the environment variable that marks a child process and its descendants. Its
// value is the id of this process, a dot, and the number of the child.
const variable = "SKOPEO_WORKER_COPY"

var (
	// self identifies this process among all that ever ran on this machine.
	self   = rand.Text()
	number atomic.Uint64
)

// Process is a command to run once.
type Process struct {
	*exec.Cmd
	// Grace is the time between SIGTERM and SIGKILL; New sets it to 5 s.
	Grace time.Duration
	// Stall is how long the connections may move no byte before the process is ended; 0 means
	// no limit.
	Stall time.Duration
	// Moved is called about every two seconds with the number of bytes that the connections
	// have sent since the last call. It is optional.
	Moved func(sent int64)
	// Waits reports whether the process waits for this one. A process that does has not stalled. It
	// is optional.
	Waits func() bool

	ctx  context.Context
	stop context.CancelCauseFunc
	mark string // value of variable
}

// New returns a process for a program with its arguments. It ends with ctx.
func New(ctx context.Context, program string, arguments ...string) *Process {
	ctx, stop := context.WithCancelCause(ctx)
	p := &Process{
		Cmd: exec.CommandContext(ctx, program, arguments...), Grace: defaultGrace,
		ctx: ctx, stop: stop, mark: fmt.Sprintf("%s.%d", self, number.Add(1)),
	}
	// A process group of its own: Ctrl-C at the terminal ends this process, which ends it.
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(p.SysProcAttr)
	return p
}

// Run starts the process and waits for its end. It returns an *exec.ExitError if the process
// failed, a *StalledError if it stalled, and the cause of the context's end if that ended it.
// Afterwards, no process that it has started remains, except those in other process groups if it
// ended by itself.
func (p *Process) Run() error {
	defer p.stop(nil)
	p.Env = append(p.Environ(), variable+"="+p.mark)
	var killer *time.Timer
	p.Cancel = func() error {
		killer = time.AfterFunc(p.Grace, func() { _ = p.signal(syscall.SIGKILL) })
		return p.signal(syscall.SIGTERM)
	}
	// A process that was not found may still hold stderr open.
	p.WaitDelay = p.Grace + time.Second

	// A process that dies with its parent dies with the thread that started it, so the
	// thread must live until Wait returns.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := p.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() { defer close(watched); p.watch(ended) }()
	err := p.Wait()
	close(ended)
	<-watched
	if killer != nil {
		killer.Stop()
	}
	if p.ctx.Err() != nil || groupLives(p.Process.Pid) {
		_ = syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
		sweep(p.mark)
	}
	if err != nil && p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	return err
}

// groupLives reports whether a process group has any process.
func groupLives(id int) bool { return !errors.Is(syscall.Kill(-id, 0), syscall.ESRCH) }

const (
	// sweepTime limits the wait for the end of killed processes. One that the kernel keeps
	// in a system call dies later.
	sweepTime = 5 * time.Second
	// sweepPause is the time between two looks for processes that are left.
	sweepPause = 5 * time.Millisecond
)

// signal sends a signal to the process and to all that it has started.
func (p *Process) signal(s syscall.Signal) error {
	for _, other := range family(census(), p.mark, p.Process.Pid) {
		if other.group != p.Process.Pid {
			other.signal(s)
		}
	}
	err := syscall.Kill(-p.Process.Pid, s)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// sweep kills the processes of a family until none is left.
func sweep(mark string) {
	for end := time.Now().Add(sweepTime); time.Now().Before(end); time.Sleep(sweepPause) {
		left := family(census(), mark, 0)
		if len(left) == 0 {
			return
		}
		for _, other := range left {
			other.signal(syscall.SIGKILL)
		}
	}
}
