package command

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/planner/plan"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

func cancelCommand() *cobra.Command {
	var s settings
	return &cobra.Command{
		Use:   "cancel [RUN]",
		Short: "Cancel chunks of a run that have not started",
		Long:  "Cancel the chunks of a run that have not started: planned, due and snoozed ones.\nWithout RUN, cancel the newest run. A worker may finish a chunk that it has already.\nRepublished images become failures again.",
		Args:  atMostOne,
		RunE: s.explained(func(cmd *cobra.Command, args []string) error {
			se, err := open(cmd.Context(), &s, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer se.Close()
			return se.cancel(cmd.Context(), first(args), cmd.OutOrStdout())
		}),
	}
}

// cancel ends a run; the newest one if id is empty.
func (se *session) cancel(ctx context.Context, id string, out io.Writer) error {
	r, err := se.runs.Get(ctx, se.name, id)
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
