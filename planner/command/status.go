package command

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/planner/plan"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/estimate"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/prune"
)

// shownRuns is how many older runs planner status lists below the newest.
const shownRuns = 10

func statusCommand() *cobra.Command {
	var s settings
	var format formatFlag
	var watch bool
	c := &cobra.Command{
		Annotations: config.Annotation(s.stored()...),

		ValidArgsFunction: completeRun,

		Use:   "status [RUN]",
		Short: "Show a run: state, chunks, images, pulls, budgets, estimated end",
		Long:  "Show the state of a run: chunks, images, pulls, budgets, and when it can be done.\nWithout RUN, show the newest run, the last prune plan, and a table of older runs.",
		Args:  atMost(1),
		RunE: s.onStore(func(cmd *cobra.Command, se *session, args []string) error {
			ctx, out := cmd.Context(), cmd.OutOrStdout()
			r, err := se.find(ctx, first(args))
			if err != nil {
				return err
			}
			if watch {
				status, err := se.watch(ctx, r.ID, out, format)
				if err == nil && !format.json {
					if err = se.describe(ctx, &status); err == nil {
						display.Status(out, status, time.Now(), screen(cmd))
					}
				}
				return err
			}
			status, err := se.status(ctx, r.ID)
			if err == nil {
				err = se.describe(ctx, &status)
			}
			if err != nil {
				return err
			}
			pruning, err := se.pruning(ctx)
			if err != nil {
				return err
			}
			if format.json {
				return printJSON(out, statusWithPruning{status, pruning})
			}
			display.Status(out, status, time.Now(), screen(cmd))
			if len(args) > 0 {
				return nil
			}
			display.Pruning(out, pruning.Review, pruning.Last, time.Now())
			return se.showOlder(ctx, r.ID, out, screen(cmd))
		}),
	}
	format.add(c)
	c.Flags().BoolVar(&watch, "watch", false, "follow the run to its end")
	return c
}

// statusWithPruning is the status of a run, with the state of the pruning of its mirror.
type statusWithPruning struct {
	run.Status
	Pruning pruningStatus `json:"pruning"`
}

// pruningStatus is the prune plan on the page, and the last execution of any plan. Both may be nil.
type pruningStatus struct {
	Review *prune.Review `json:"review"`
	Last   *prune.Last   `json:"last"`
}

func (se *session) pruning(ctx context.Context) (pruningStatus, error) {
	store, err := prune.OpenStore(ctx, se.Broker)
	if err != nil {
		return pruningStatus{}, err
	}
	st, err := store.State(ctx, se.name)
	return pruningStatus{st.Review, st.Last}, err
}

func (se *session) status(ctx context.Context, id string) (run.Status, error) {
	tracker, err := se.runs.Track(ctx, se.name, id)
	if err != nil {
		return run.Status{}, err
	}
	return tracker.Status(ctx)
}

// describe adds registries, estimates and failures to the status of a run.
func (se *session) describe(ctx context.Context, status *run.Status) error {
	if err := estimate.Describe(ctx, se.budget, status); err != nil {
		return err
	}
	kept, err := se.counter.Count(ctx)
	if err != nil {
		return fmt.Errorf("counting failures: %w", err)
	}
	of := kept.Images[status.Name]
	status.Failures = run.Failures{Images: of.Listed, LeftList: of.LeftList, Unreadable: kept.Unreadable}
	return nil
}

func (se *session) showOlder(ctx context.Context, newest string, out io.Writer, screen display.Screen) error {
	runs, err := se.runs.List(ctx, se.name)
	if err != nil {
		return err
	}
	var older []run.Status
	for _, r := range runs {
		if r.ID == newest || len(older) == shownRuns {
			continue
		}
		status, err := se.status(ctx, r.ID)
		if err != nil {
			return err
		}
		older = append(older, status)
	}
	if len(older) > 0 {
		_, _ = fmt.Fprintln(out)
		display.Runs(out, older, time.Now(), screen)
	}
	return nil
}

func cancelCommand() *cobra.Command {
	var s settings
	return &cobra.Command{
		Annotations: config.Annotation(s.stored()...),

		ValidArgsFunction: completeRun,

		Use:   "cancel [RUN]",
		Short: "Cancel chunks of a run that have not started",
		Long:  "Cancel the chunks of a run that have not started: planned, due and snoozed ones.\nWithout RUN, cancel the newest run. A worker may finish a chunk that it has already.\nRepublished images become failures again.",
		Args:  atMost(1),
		RunE: s.onStore(func(cmd *cobra.Command, se *session, args []string) error {
			return se.cancel(cmd.Context(), first(args), cmd.OutOrStdout())
		}),
	}
}

// cancel cancels the run with the id, or the newest run if id is empty.
func (se *session) cancel(ctx context.Context, id string, out io.Writer) error {
	r, err := se.find(ctx, id)
	if err != nil {
		return err
	}
	left, err := se.Count(ctx, subject.OfRun(r.Name, r.ID))
	if err != nil {
		return err
	}
	if left == 0 {
		_, _ = fmt.Fprintf(out, "Run %s has nothing left to cancel.\n", r.ID)
		return nil
	}
	ender := plan.Ender{Broker: se.Broker, Runs: se.runs, Failures: se.failures}
	dropped, err := ender.End(ctx, r, run.StateCancelled)
	if err != nil {
		return err
	}
	display.Cancelled(out, r.ID, dropped)
	return nil
}
