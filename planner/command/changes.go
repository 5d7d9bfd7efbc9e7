package command

import (
	"context"

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
		Long:  "List the tags that a run has changed at the destination: new ones, those that have moved\nfrom one digest to another, and those that the source no longer lists, or denies, and the\ndestination keeps. Without RUN, list those of the newest run.",
		Args:  atMostOne,
		RunE: s.explained(func(cmd *cobra.Command, args []string) error {
			ctx, out := cmd.Context(), cmd.OutOrStdout()
			se, err := open(ctx, &s, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer se.Close()
			changes, more, id, err := se.listChanges(ctx, first(args))
			if err != nil {
				return err
			}
			if format.json {
				return printJSON(out, change.NewReport(id, changes, more))
			}
			display.Changes(out, id, changes, more, screen(cmd))
			return nil
		}),
	}
	format.add(c)
	return c
}

func (se *session) listChanges(ctx context.Context, id string) (changes []change.Change, more int, found string, err error) {
	r, err := se.find(ctx, id)
	if err != nil {
		return nil, 0, "", err
	}
	store, err := change.Open(ctx, se.Broker)
	if err != nil {
		return nil, 0, "", err
	}
	changes, more, err = store.List(ctx, r.Name, r.ID)
	return changes, more, r.ID, err
}
