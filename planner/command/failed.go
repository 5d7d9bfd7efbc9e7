package command

import (
	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/shared/failure"
)

func failedCommand() *cobra.Command {
	var s settings
	var format formatFlag
	c := &cobra.Command{
		Use:   "failed",
		Short: "List failed images by repository, with their errors",
		Long:  "List the failed images by repository, each with its error. A failure is kept until\nit is republished, or until a run finds the image mirrored.",
		Args:  noArguments,
		RunE: s.explained(func(cmd *cobra.Command, _ []string) error {
			se, err := open(cmd.Context(), &s, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer se.Close()
			records, err := se.failures.List(cmd.Context(), se.name)
			if err != nil {
				return err
			}
			if format.json {
				if records == nil {
					records = []failure.Record{}
				}
				return printJSON(cmd.OutOrStdout(), records)
			}
			display.Failures(cmd.OutOrStdout(), records)
			return nil
		}),
	}
	format.add(c)
	return c
}
