// Package child runs a process that ends, with all that it has started, when its context
// ends, when this process dies, and when its connections move no byte for too long.
//
// It finds what a process has started by a variable in the environment, which is
// inherited across sessions and process groups, and by parentage. What its connections
// have moved it asks of the kernel. Both take Linux. Elsewhere a process group is all
// that is ended, with its context only, and nobody sees bytes.
package child

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// defaultGrace is what a process gets between SIGTERM and SIGKILL. A copy has nothing
// to save; it only has to close its connections.
const defaultGrace = 5 * time.Second

// variable marks the processes that descend from one of ours. Its value is our own id
// and the number of the process, with a dot between them.
const variable = "SKOPEO_WORKER_COPY"

var (
	// self is the id of this process among all that there have been on this machine.
	self   = rand.Text()
	number atomic.Uint64
)

// Process is a process that has not been started yet.
type Process struct {
	*exec.Cmd
	// Grace is the time between SIGTERM and SIGKILL; 0 is 5 s.
	Grace time.Duration
	// Stall ends a process whose connections move no byte for so long; 0 is never.
	Stall time.Duration
	// Moved is called with how many bytes more the connections have sent since the last
	// call; nil is nobody. It is called for what a look every two seconds sees.
	Moved func(sent int64)

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
	// A group of its own: a Ctrl-C at the terminal ends us, and we end it.
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(p.SysProcAttr)
	return p
}

// Run starts the process and returns when it has ended, with an *exec.ExitError where it
// failed. Of a process that was ended, the error is a *StalledError, or the cause of the
// context's end. Nothing that the process has started is left then, unless it ended by
// itself and what it left is in another process group.
func (p *Process) Run() error {
	defer p.stop(nil)
	p.Env = append(p.Environ(), variable+"="+p.mark)
	var killer *time.Timer
	p.Cancel = func() error {
		killer = time.AfterFunc(p.Grace, func() { _ = p.signal(syscall.SIGKILL) })
		return p.signal(syscall.SIGTERM)
	}
	// All is dead by then. What could not be found may still hold stderr open.
	p.WaitDelay = p.Grace + time.Second

	// A process that dies with its parent dies with the thread that started it: the
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
