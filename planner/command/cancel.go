package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/plan"
)

func cancelCommand() *cobra.Command {
	var s settings
	return &cobra.Command{
		Use:   "cancel [RUN]",
		Short: "Drop what is not yet due",
		Long:  "Drop what a run, the newest where none is named, has planned and what its chunks\nhave put off. What is due goes on. Republished images become failures again.",
		Args:  atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, out := cmd.Context(), cmd.OutOrStdout()
			se, err := open(ctx, &s, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer se.Close()
			r, err := se.runs.Get(ctx, se.name, first(args))
			if err != nil {
				return err
			}
			c := plan.Canceller{Broker: se.Broker, Runs: se.runs, Failures: se.failures}
			dropped, err := c.Cancel(ctx, r)
			if err != nil {
				return err
			}
			if dropped == 0 {
				_, _ = fmt.Fprintf(out, "Run %s has nothing that is not yet due.\n", r.ID)
				return nil
			}
			_, _ = fmt.Fprintf(out, "Cancelled run %s: %s dropped.\n", r.ID, count(dropped, "chunk", "chunks"))
			return nil
		},
	}
}
