package skopeo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/redact"
	"github.com/osism/skopeo-worker/worker/child"
	"github.com/osism/skopeo-worker/worker/meter"
)

// errTimeout is the cancellation cause of a copy that took longer than Timeout.
var errTimeout = fmt.Errorf("took too long: %w", context.DeadlineExceeded)

// copying is a copy by one skopeo process.
type copying struct {
	arguments           []string
	inherited           []*os.File
	environment         []string // additional variables
	source, destination string   // hosts
	serving             *serving // if nil, skopeo sends its requests to the hosts itself
}

// run runs skopeo to its end, or to its first 429.
func (r *Runner) run(ctx context.Context, c *copying) error {
	within, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		within, cancel = context.WithTimeoutCause(within, r.Timeout, errTimeout)
		defer cancel()
	}
	p := child.New(within, r.path(), c.arguments...)
	p.Env, p.ExtraFiles = slices.Concat(os.Environ(), collecting(os.Getenv), c.environment), c.inherited
	p.Stall, p.Moved = r.Stall, func(sent int64) { meter.Add(c.context(ctx), sent) }
	if r.Grace > 0 {
		p.Grace = r.Grace
	}
	said := &stderr{limited: func(l *limit) { stop(l) }, pulled: func() { budget.Sent(ctx) }, silent: func(silence time.Duration) {
		if r.Stall > 0 && silence >= r.Stall {
			stop(errSilentSource)
		}
	}}
	p.Stderr = said
	if c.serving != nil {
		p.Waits = c.serving.waits
		defer c.serving.onFailure(stop)()
	} else {
		p.Env = append(p.Env, systemAuthorities()...)
	}

	err := p.Run()
	started := p.Process != nil
	limited, stalled := (*limit)(nil), (*child.StalledError)(nil)
	switch cause := context.Cause(within); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return interrupted(ctx)
	case c.failure() != nil:
		return c.failure()
	case errors.As(cause, &limited):
		return &Error{Reason: limited.Error(), ExitCode: noExitCode, RetryAfter: limited.retryAfter, Err: limited}
	case errors.Is(cause, errTimeout):
		return &Error{Reason: fmt.Sprintf("the copy took longer than COPY_TIMEOUT (%s)", r.Timeout), ExitCode: noExitCode, Err: errTimeout}
	case errors.Is(cause, errSilentSource):
		return r.stalledAt(Source, c.source)
	case errors.As(err, &stalled) && c.serving != nil:
		return r.stalledAt(Neither, "")
	case errors.As(err, &stalled):
		return r.stalledAt(said.requests.waitFor(stalled.Unsent, c.source, c.destination))
	case !started:
		return failedToStart(ctx, r.explain(err))
	default:
		return &Error{Reason: reason(said.tail.Bytes(), err), ExitCode: p.ProcessState.ExitCode(), Err: err}
	}
}

// context returns the context of the image that is being copied. ctx is that of the process.
func (c *copying) context(ctx context.Context) context.Context {
	if c.serving == nil {
		return ctx
	}
	if a := c.serving.at(); a != nil {
		return a.ctx
	}
	return ctx
}

// failure returns the first error of the requests that this process sent for skopeo.
func (c *copying) failure() error {
	if c.serving == nil {
		return nil
	}
	return c.serving.failure()
}

// errSilentSource is the cancellation cause of a copy whose source has sent no byte of a blob for
// Stall, although skopeo has repeated its request.
var errSilentSource = errors.New("the source sends nothing")

// stalledAt returns the error of a copy that moved no byte for Stall while it waited for the host
// of this side. If the side is Neither, host is ignored.
func (r *Runner) stalledAt(side Side, host string) *Error {
	reason := fmt.Sprintf("stalled: no byte moved for %s", r.Stall)
	if side != Neither {
		reason += ", waiting for " + host
	}
	return &Error{Reason: reason, ExitCode: noExitCode, Side: side, Registry: host, Err: child.ErrStalled}
}

// interrupted returns the error of a copy that ended because ctx did.
func interrupted(ctx context.Context) *Error {
	if errors.Is(context.Cause(ctx), budget.ErrLate) {
		return &Error{Reason: budget.ErrLate.Error(), ExitCode: noExitCode, Err: budget.ErrLate}
	}
	return &Error{Reason: "interrupted", ExitCode: noExitCode, Err: ctx.Err()}
}

func failedToStart(ctx context.Context, err error) *Error {
	if ctx.Err() != nil {
		return interrupted(ctx)
	}
	return &Error{Reason: redact.Line(err.Error()), ExitCode: noExitCode, Err: err}
}
