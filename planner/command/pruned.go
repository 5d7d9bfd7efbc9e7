package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/consume"
	"github.com/osism/skopeo-worker/worker/prune"
)

// readPlan reads a plan. Unknown keys are an error: a plan with a typing error must not delete
// anything.
func readPlan(path string) (prune.Plan, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return prune.Plan{}, fmt.Errorf("%w: --execute: %w", errUsage, err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	var plan prune.Plan
	if err := decoder.Decode(&plan); err != nil {
		return prune.Plan{}, fmt.Errorf("%s: %w: %w", path, prune.ErrPlan, err)
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return prune.Plan{}, fmt.Errorf("%s: %w: it has more than one document", path, prune.ErrPlan)
	}
	if err := plan.Check(); err != nil {
		return prune.Plan{}, fmt.Errorf("%s: %w", path, err)
	}
	return plan, nil
}

// execute carries a plan out.
func (p *pruneFlags) execute(cmd *cobra.Command) error {
	ctx, out := cmd.Context(), cmd.ErrOrStderr()
	plan, err := readPlan(p.execution)
	if err != nil {
		return err
	}
	if err := p.grace.Set(plan.Grace); err != nil {
		return fmt.Errorf("%s: %w: grace: %w", p.execution, prune.ErrPlan, err)
	}
	s, err := p.survey(ctx, cmd.InOrStdin(), out)
	if err != nil {
		return err
	}
	defer s.close()
	if plan.Mirror != s.Mirror || plan.Destination != s.Destination {
		return fmt.Errorf("%w: %s: the plan is for MIRROR_NAME=%s and MIRROR_DEST_URL=%s", errUsage, p.execution, plan.Mirror, plan.Destination)
	}
	if err := s.session.isIdle(ctx, s.Destination); err != nil {
		return err
	}
	done, err := s.execute(ctx, plan, out)
	if ctx.Err() != nil {
		return fmt.Errorf("%w: interrupted; execute the plan again to continue", errUnfinished)
	}
	if p.output == "json" {
		if err := printJSON(cmd.OutOrStdout(), done); err != nil {
			return err
		}
	}
	display.Pruned(out, done)
	return err
}

// isIdle returns an error if a run to the destination is not over, or a worker still has a chunk
// of one that was cancelled or superseded: what a worker has just seen at the destination must
// not be deleted before it is tagged.
func (se *session) isIdle(ctx context.Context, destination string) error {
	ledger := se.runs.Ledger()
	byName, err := ledger.List(ctx)
	if err != nil {
		return err
	}
	for name, runs := range byName {
		for _, r := range runs {
			if name != se.name && r.Destination != "" && r.Destination != destination {
				continue
			}
			status, final, err := ledger.Status(ctx, r)
			if err != nil {
				return err
			}
			ended := status.State == run.StateCancelled || status.State == run.StateSuperseded
			if !status.Over() || ended && !final {
				return fmt.Errorf("%w: run %s of mirror %s is not over; wait for it, or cancel it with planner cancel", errUnfinished, r.ID, name)
			}
		}
	}
	return nil
}

// turn is how long a process waits before it asks again whether another one still carries out
// its plan.
const turn = time.Second

// execute carries a plan out, or waits for another process that does.
func (s *surveyed) execute(ctx context.Context, plan prune.Plan, out io.Writer) (prune.Outcome, error) {
	store, err := prune.OpenStore(ctx, s.session.Broker)
	if err != nil {
		return prune.Outcome{}, err
	}
	notes, err := consume.OpenNotes(ctx, s.session.Broker, s.session.log)
	if err != nil {
		return prune.Outcome{}, err
	}
	by := operator()
	lease, err := s.take(ctx, store, plan, by, out)
	if err != nil {
		return prune.Outcome{}, err
	}
	log := s.session.log.With("plan", plan.ID(), "by", by)
	if at := lease.Record.Finished; !at.IsZero() {
		log.Info("the plan was carried out before", "at", at)
		return lease.Record.Outcome, lease.Release(ctx, true)
	}
	log.Info("carrying out a plan", "mirror", plan.Mirror, "made", plan.Made, "tags", plan.Tags, "repositories", len(plan.Repositories), "finished", len(lease.Record.Done))
	x := prune.Execution{Survey: s.Survey, Log: log, Forget: func(ctx context.Context, destination reference.Repository, tags map[reference.Tag]reference.Digest) error {
		return errors.Join(notes.Once().ForgetHeld(ctx, destination, tags), s.holdings.Forget(ctx, destination, tags))
	}}
	return x.Run(ctx, plan, lease)
}

// take takes the lease of a plan. If another process has it, take waits for its end.
func (s *surveyed) take(ctx context.Context, store *prune.Store, plan prune.Plan, by string, out io.Writer) (*prune.Lease, error) {
	holder := run.NewID(time.Now())
	for waiting := false; ; waiting = true {
		lease, other, err := store.Take(ctx, plan.Mirror, plan.ID(), by, holder)
		if err != nil || lease != nil {
			if waiting && err == nil { // the records are those of before
				s.Holdings, err = s.holdings.List(ctx)
			}
			return lease, err
		}
		if !waiting {
			_, _ = fmt.Fprintf(out, "%s carries out this plan, or was killed just now; waiting.\n", other)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(turn):
		}
	}
}
