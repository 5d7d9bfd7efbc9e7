package prune

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Run carries out what is left of a plan, one repository after the other. A repository that
// fails is left for another execution, unless the registry deletes nothing at all; then the
// others are, too. The error is ErrUndeleted then. If a registry is away, the error is ErrAway,
// and nothing counts as failed because of it. If Busy returns an error, Run stops with it.
// The end is noted at the broker, unless ctx ended: then the plan is to go on.
func (x *Execution) Run(ctx context.Context, p Plan, lease *Lease) (Outcome, error) {
	asked := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x.lease = lease
	all, err := lease.Record.Outcome, x.Busy(ctx)
	if err == nil {
		go lease.Keep(ctx, x.Busy, cancel)
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
		last.Why = strings.TrimPrefix(outcome.Reason(err), "unfinished: ") // Finished says so
	}
	if asked.Err() != nil {
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
		done, err := x.Repository(ctx, r)
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
			if host == r.Repository.Registry() { // so are all other repositories of the plan
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
