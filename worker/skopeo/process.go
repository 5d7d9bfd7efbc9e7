package skopeo

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/osism/skopeo-worker/shared/redact"
)

// errTimeout is the cause of a copy's end when Timeout has passed.
var errTimeout = fmt.Errorf("took too long: %w", context.DeadlineExceeded)

// process is a skopeo that ends with its context: a SIGTERM to its group, then
// a SIGKILL after the grace.
type process struct {
	*exec.Cmd
	grace  time.Duration
	killer *time.Timer
}

func (r *Runner) process(ctx context.Context, arguments []string) *process {
	p := &process{Cmd: exec.CommandContext(ctx, r.path(), arguments...), grace: r.Grace}
	if p.grace == 0 {
		p.grace = defaultGrace
	}
	isolate(p.Cmd)
	p.Cancel = p.end
	// The group is dead by then. What has left it may still hold stderr open.
	p.WaitDelay = p.grace + time.Second
	return p
}

func (p *process) end() error {
	p.killer = time.AfterFunc(p.grace, func() { signalGroup(p.Process, syscall.SIGKILL) })
	return signalGroup(p.Process, syscall.SIGTERM)
}

// wait is Wait, after which the process id may be somebody else's.
func (p *process) wait() error {
	err := p.Wait()
	if p.killer != nil {
		p.killer.Stop()
	}
	return err
}

// run runs skopeo to its end, or to its first 429.
func (r *Runner) run(ctx context.Context, arguments []string) error {
	within, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		within, cancel = context.WithTimeoutCause(within, r.Timeout, errTimeout)
		defer cancel()
	}
	p := r.process(within, arguments)
	inTime := pullTimer(ctx, func() { stop(ErrLate) })
	defer inTime()
	said := &stderr{limited: func(l *limit) { stop(l) }, pulled: inTime}
	p.Stderr = said

	// A process that dies with its parent dies with the thread that started
	// it: the thread must live until Wait returns.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.Start()
	started := err == nil
	if started {
		err = p.wait()
	}
	limited := (*limit)(nil)
	switch cause := context.Cause(within); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return interrupted(ctx)
	case errors.As(cause, &limited):
		return &Error{Reason: limited.Error(), ExitCode: noExitCode, RetryAfter: limited.retryAfter, Err: limited}
	case errors.Is(cause, ErrLate):
		return &Error{Reason: ErrLate.Error(), ExitCode: noExitCode, Err: ErrLate}
	case errors.Is(cause, errTimeout):
		return &Error{Reason: fmt.Sprintf("gave up after %s", r.Timeout), ExitCode: noExitCode, Err: errTimeout}
	case !started:
		return failedToStart(ctx, r.explain(err))
	default:
		return &Error{Reason: reason(said.tail.Bytes(), err), ExitCode: p.ProcessState.ExitCode(), Err: err}
	}
}

func interrupted(ctx context.Context) *Error {
	return &Error{Reason: "interrupted", ExitCode: noExitCode, Err: ctx.Err()}
}

func failedToStart(ctx context.Context, err error) *Error {
	if ctx.Err() != nil {
		return interrupted(ctx)
	}
	return &Error{Reason: redact.Line(err.Error()), ExitCode: noExitCode, Err: err}
}
