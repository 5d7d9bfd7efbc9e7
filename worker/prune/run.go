package prune

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Run carries out the rest of a plan, one repository after the other. If a repository fails, the
// error is ErrUndeleted, and another execution can try it again. Run then continues with the next
// one, unless the registry deletes no manifests at all. If a registry is away, the error is
// ErrAway, and no tag counts as failed because of it. If Busy returns an error, Run returns it.
// Run notes its end at the broker, unless ctx has ended, or the error is ErrTaken: another execution is to
// continue then.
func (x *Execution) Run(ctx context.Context, p Plan, lease *Lease) (Outcome, error) {
	asked := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x.lease = lease
	all, err := lease.Record.Outcome, x.Busy(ctx)
	if err == nil {
		go lease.keep(ctx, x.Busy, cancel)
		all, err = x.run(ctx, p, all)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = lease.end(ctx)
	}
	cancel(nil)
	last := &Last{Plan: lease.Record.Plan, By: lease.holder.By, At: time.Now().UTC(), Finished: err == nil, Outcome: all}
	if err != nil {
		last.Why = strings.TrimPrefix(outcome.Reason(err), "unfinished: ") // as Finished shows
	}
	if asked.Err() != nil || errors.Is(err, ErrTaken) {
		last = nil
	}
	if released := lease.Release(context.WithoutCancel(ctx), last); err == nil {
		err = released
	}
	return all, err
}

func (x *Execution) run(ctx context.Context, p Plan, all Outcome) (_ Outcome, failed error) {
	var unfinished error
	for i, r := range p.Repositories {
		if x.lease.Record.Done.Has(i) {
			continue
		}
		done, err := x.prune(ctx, r)
		if err == nil {
			err = x.lease.Finish(context.WithoutCancel(ctx), i, done)
		}
		stopped := ctx.Err() != nil || errors.Is(err, ErrTaken)
		host := away(err)
		if err != nil && !stopped && host == "" {
			done.Failed = len(r.Tags) - done.Deleted - done.Gone - done.Skipped
		}
		all.add(done)
		switch {
		case stopped:
			return all, err
		case err == nil:
			continue
		case host != "":
			x.Log.Warn("a repository is not pruned yet", "repository", r.Repository, "error", err)
			unfinished = fmt.Errorf("%w: %s: %w", ErrAway, r.Repository, err)
			if host == r.Repository.Registry() { // which has all other repositories of the plan, too
				return all, cmp.Or(failed, unfinished)
			}
			continue
		}
		x.Log.Error("a repository is not pruned", "repository", r.Repository, "error", err)
		failed = fmt.Errorf("%w: %s: %w", ErrUndeleted, r.Repository, err)
		if errors.Is(err, registry.ErrUndeletable) {
			for later, r := range p.Repositories {
				if later > i && !x.lease.Record.Done.Has(later) {
					all.Failed += len(r.Tags)
				}
			}
			break
		}
	}
	return all, cmp.Or(failed, unfinished)
}

const (
	// maxPause is the longest pause after a 429. After a longer one, the tags that were read
	// before it would be out of date.
	maxPause = time.Minute
	// minPause is the first pause if the answer has no Retry-After. Each further one is twice as
	// long as the one before.
	minPause = time.Second
	// limitedAttempts is how often a request is sent if the registry answers 429. It takes two
	// minutes.
	limitedAttempts = 8
)

// ErrAway is returned if a registry does not answer, or limits requests for longer than an
// execution waits. Another execution can continue.
var ErrAway = exit.Unfinished.New("a registry is away, or allows nothing for now")

// Guard returns a guard for registry.Options that waits and sends a request again if the registry
// limits requests. pause waits for a time, or until ctx ends.
func Guard(pause func(ctx context.Context, d time.Duration) error) func(context.Context, registry.Request, func() error) error {
	return func(ctx context.Context, _ registry.Request, send func() error) error {
		for attempt, wait := 1, minPause; ; attempt, wait = attempt+1, min(2*wait, maxPause) {
			err := send()
			after := outcome.RetryAfter(err)
			if err == nil || outcome.Classify(err) != outcome.Limited || isClosed(err) || after > maxPause || attempt == limitedAttempts {
				return err
			}
			if after == 0 {
				after = wait
			}
			if ended := pause(ctx, after); ended != nil {
				return ended
			}
		}
	}
}

// Sleep waits for a time. If ctx ends before, it returns the cause.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// isClosed reports whether workers have closed a registry because it is away. Its return is
// unknown.
func isClosed(err error) bool {
	spent, ok := errors.AsType[*budget.SpentError](err)
	return ok && !spent.Since.IsZero()
}

// away returns the registry that is away or limits requests, according to an error. It returns ""
// for any other error.
func away(err error) string {
	if spent, ok := errors.AsType[*budget.SpentError](err); ok {
		return spent.Registry
	}
	asked, ok := errors.AsType[*registry.Error](err)
	if !ok {
		return ""
	}
	gone := errors.Is(asked, registry.ErrUnavailable)
	switch asked.Status {
	case 0, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	default:
		gone = false
	}
	if gone || errors.Is(asked, registry.ErrLimited) {
		return asked.Repository.Registry()
	}
	return ""
}
