package command

import (
	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/config"
)

func changesCommand() *cobra.Command {
	var s settings
	var format formatFlag
	c := &cobra.Command{
		Annotations: config.Annotation(s.stored()...),

		ValidArgsFunction: completeRun,

		Use:   "changes [RUN]",
		Short: "List the tags that a run has changed at the destination",
		Long:  "List the tags that a run has changed at the destination: new tags, and tags that have moved\nto another digest. Also list tags that the destination keeps although the source has moved\nor no longer has them. Without RUN, list those of the newest run.",
		Args:  atMost(1),
		RunE: s.onStore(func(cmd *cobra.Command, se *session, args []string) error {
			ctx, out := cmd.Context(), cmd.OutOrStdout()
			r, err := se.find(ctx, first(args))
			if err != nil {
				return err
			}
			store, err := change.Open(ctx, se.Broker)
			if err != nil {
				return err
			}
			changes, more, err := store.List(ctx, r.Name, r.ID)
			if err != nil {
				return err
			}
			if format.json {
				return printJSON(out, change.NewReport(r.ID, changes, more))
			}
			display.Changes(out, r.ID, changes, more, screen(cmd))
			return nil
		}),
	}
	format.add(c)
	return c
}
