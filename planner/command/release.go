package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/planner/waiting"
	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/release"
)

func releaseCommand() *cobra.Command {
	var s settings
	var format formatFlag
	c := &cobra.Command{
		Annotations: config.Annotation(s.stored()...),

		Use:   "release [REPOSITORY[:TAG] | REPOSITORY@DIGEST]…",
		Short: "Mirror images before their minimum age, or list those that wait",
		Long:  "Release images from their minimum age (MIN_AGE): the next run mirrors them. A tag stands\nfor the digest that waits under it; if the tag moves again, the new digest waits. A\nrepository stands for all of its tags that wait. The log names each release and its user.\nWithout arguments, list the images that wait, and the releases of the last 90 days.",
		RunE: s.onStore(func(cmd *cobra.Command, se *session, args []string) error {
			ctx := cmd.Context()
			store, err := release.Open(ctx, se.Broker)
			if err != nil {
				return err
			}
			seen, err := catalog.Open(ctx, se.Broker)
			if err != nil {
				return err
			}
			tags, err := waiting.List(ctx, seen, se.name)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				return se.release(ctx, store, tags, args, cmd.OutOrStdout())
			}
			releases, err := store.List(ctx)
			if err != nil {
				return err
			}
			if format.json {
				return printJSON(cmd.OutOrStdout(), waiting.NewReport(tags, releases))
			}
			display.Waiting(cmd.OutOrStdout(), tags, releases, time.Now())
			return nil
		}),
	}
	format.add(c)
	return c
}

// release stores a release for each image. If one of the images does not wait, it stores none.
func (se *session) release(ctx context.Context, store *release.Store, tags []waiting.Tag, args []string, out io.Writer) error {
	var all []release.Release
	for _, arg := range args {
		r, err := reference.Parse(arg)
		if err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		meant, err := waiting.Meant(r, tags)
		if err != nil {
			return fmt.Errorf("%w; planner release lists waiting images", err)
		}
		for _, t := range meant {
			all = append(all, t.Release(operator(), time.Now()))
		}
	}
	for _, r := range all {
		if err := store.Add(ctx, r); err != nil {
			return err
		}
		se.log.Info("released an image from its minimum age", "image", r.Image(), "by", r.By)
		_, _ = fmt.Fprintln(out, waiting.Released(r))
	}
	return nil
}

// operator returns the user and host of this process, for the log.
func operator() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}
