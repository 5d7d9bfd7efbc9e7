package command

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/planner/pruneplan"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/consume"
	"github.com/osism/skopeo-worker/worker/prune"
)

// readPlan reads the plan at a path.
func readPlan(path string) (prune.Plan, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return prune.Plan{}, fmt.Errorf("%w: --execute: %w", errUsage, err)
	}
	return pruneplan.Read(data, path)
}

// execute executes the plan in the file.
func (p *pruneFlags) execute(cmd *cobra.Command, se *session) error {
	ctx, out := cmd.Context(), cmd.ErrOrStderr()
	plan, err := readPlan(p.execution)
	if err != nil {
		return err
	}
	if err := p.grace.Set(plan.Grace); err != nil {
		return fmt.Errorf("%s: %w: grace: %w", p.execution, prune.ErrPlan, err)
	}
	s, err := p.survey(ctx, se, cmd.InOrStdin(), out)
	if err != nil {
		return err
	}
	defer s.close()
	if plan.Mirror != s.Mirror || plan.Destination != s.Destination {
		return fmt.Errorf("%w: %s: the plan is for MIRROR_NAME=%s and MIRROR_DEST_URL=%s", errUsage, p.execution, plan.Mirror, plan.Destination)
	}
	done, err := s.execute(ctx, plan, operator(), func(other prune.Holder) {
		_, _ = fmt.Fprintf(out, "%s executes a prune plan, or was killed just now; waiting.\n", other.By)
	}, func() (bool, error) { return true, nil })
	if ctx.Err() != nil {
		return fmt.Errorf("%w: interrupted; execute the plan again to continue", errUnfinished)
	}
	if p.output == "json" {
		if err := printJSON(cmd.OutOrStdout(), done); err != nil {
			return err
		}
	}
	display.Pruned(out, done)
	if errors.Is(err, prune.ErrAway) {
		err = fmt.Errorf("%w; execute the plan again to continue", err)
	}
	return err
}

// idleness checks that no run to a destination is under way. It reads the status of a finished run only
// once.
type idleness struct {
	session     *session
	destination string
	ledger      *run.Ledger
	over        map[string]bool // by run
}

func (se *session) idleness(destination string) *idleness {
	return &idleness{session: se, destination: destination, ledger: se.runs.Ledger(), over: map[string]bool{}}
}

// check returns an error if a run to the destination, or to a path above or below it, is not over. A
// cancelled or superseded run is over only when no worker has a chunk of it any more. Otherwise, a
// manifest could be deleted after a worker has seen it, and before the worker tags it.
func (i *idleness) check(ctx context.Context) error {
	byName, err := i.ledger.List(ctx)
	if err != nil {
		return err
	}
	for name, runs := range byName {
		for _, r := range runs {
			if i.over[r.ID] || name != i.session.name && r.Destination != "" && !prune.Overlap(r.Destination, i.destination) {
				continue
			}
			status, final, err := i.ledger.Status(ctx, r)
			if err != nil {
				return err
			}
			ended := status.State == run.StateCancelled || status.State == run.StateSuperseded
			if !status.Over() || ended && !final {
				return fmt.Errorf("%w: run %s of mirror %s is not over; wait for it, or cancel it with planner cancel", errUnfinished, r.ID, name)
			}
			i.over[r.ID] = final
		}
	}
	return nil
}

// heldBack logs that a run waits for an execution of a prune plan before it is published.
func (se *session) heldBack(h prune.Holder) {
	se.log.Info("the run waits until no prune plan is being executed at its destination", "by", h.By, "plan", h.Plan)
}

// execute executes a plan. If another process executes one, it waits and calls waiting. It deletes
// nothing if wanted returns false after that.
func (s *surveyed) execute(ctx context.Context, plan prune.Plan, by string, waiting func(prune.Holder), wanted func() (bool, error)) (prune.Outcome, error) {
	store, err := prune.OpenStore(ctx, s.session.Broker)
	if err != nil {
		return prune.Outcome{}, err
	}
	notes, err := consume.OpenNotes(ctx, s.session.Broker, s.session.log)
	if err != nil {
		return prune.Outcome{}, err
	}
	holder := prune.Holder{Plan: plan.ID(), Destination: plan.Destination, By: by, Process: rand.Text()}
	lease, err := store.Take(ctx, plan.Mirror, holder, waiting)
	if err != nil {
		return prune.Outcome{}, err
	}
	log := s.session.log.With("plan", plan.ID(), "by", by)
	if at := lease.Record.Finished; !at.IsZero() {
		log.Info("the prune plan was executed before", "at", at)
		last := &prune.Last{Plan: lease.Record.Plan, By: lease.Record.By, At: at, Finished: true, Outcome: lease.Record.Outcome}
		return last.Outcome, lease.Release(ctx, last)
	}
	is, err := wanted()
	if err == nil && is { // another process may have deleted tags meanwhile
		s.Holdings, err = s.holdings.List(ctx)
	}
	if err != nil || !is {
		return lease.Record.Outcome, errors.Join(err, lease.Release(context.WithoutCancel(ctx), nil))
	}
	log.Info("executing a prune plan", "mirror", plan.Mirror, "made", plan.Made, "tags", plan.Tags, "repositories", len(plan.Repositories), "finished", lease.Record.Done.Len())
	x := prune.Execution{
		Survey: s.Survey, Log: log, Busy: s.session.idleness(s.Destination).check,
		Forget: func(ctx context.Context, destination reference.Repository, tags map[reference.Tag]reference.Digest) error {
			return errors.Join(notes.Once().ForgetHeld(ctx, destination, tags), s.holdings.Forget(ctx, destination, tags))
		},
	}
	return x.Run(ctx, plan, lease)
}
