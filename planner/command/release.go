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
	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/release"
	"github.com/osism/skopeo-worker/shared/run"
)

// errNotWaiting is returned for a tag that no run has left waiting.
var errNotWaiting = exit.Usage.New("the image does not wait")

func releaseCommand() *cobra.Command {
	var s settings
	var format formatFlag
	c := &cobra.Command{
		Annotations: config.Annotation(s.stored()...),

		Use:   "release [REPOSITORY[:TAG] | REPOSITORY@DIGEST]…",
		Short: "Let images in before their minimum age, or list those that wait",
		Long:  "Let images in before their minimum age (MIN_AGE): the next run mirrors them. A tag\nstands for the digest that it had when a run left it waiting; if it moves again, that\ndigest waits. A repository stands for all of its tags that wait. The log names each release and who made it. Without arguments, list the\nimages that wait, and the releases of the last 90 days.",
		RunE: s.onStore(func(cmd *cobra.Command, se *session, args []string) error {
			ctx := cmd.Context()
			store, err := release.Open(ctx, se.Broker)
			if err != nil {
				return err
			}
			waiting, err := se.waiting(ctx)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				return se.release(ctx, store, waiting, args, cmd.OutOrStdout())
			}
			releases, err := store.List(ctx)
			if err != nil {
				return err
			}
			if format.json {
				return printJSON(cmd.OutOrStdout(), map[string]any{"waiting": waiting, "releases": append([]release.Release{}, releases...)})
			}
			display.Waiting(cmd.OutOrStdout(), waiting, releases, time.Now())
			return nil
		}),
	}
	format.add(c)
	return c
}

// waiting returns the tags that runs have left waiting.
func (se *session) waiting(ctx context.Context) ([]display.WaitingTag, error) {
	store, err := catalog.Open(ctx, se.Broker)
	if err != nil {
		return nil, err
	}
	repositories, err := store.List(ctx, se.name)
	if err != nil {
		return nil, err
	}
	waiting := []display.WaitingTag{}
	for _, r := range repositories {
		for _, t := range r.Tags {
			if t.State == run.Waiting {
				waiting = append(waiting, display.WaitingTag{Repository: r.Source, Tag: t.Name, Digest: t.Source, At: t.At, Until: t.Until})
			}
		}
	}
	return waiting, nil
}

// release stores a release for each image. All of them are checked before one is stored.
func (se *session) release(ctx context.Context, store *release.Store, waiting []display.WaitingTag, args []string, out io.Writer) error {
	var all []release.Release
	for _, arg := range args {
		r, err := reference.Parse(arg)
		if err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		released := meant(r, waiting)
		if len(released) == 0 {
			return fmt.Errorf("%w: no run has left %s waiting; planner release lists what waits", errNotWaiting, r)
		}
		all = append(all, released...)
	}
	for _, r := range all {
		if err := store.Add(ctx, r); err != nil {
			return err
		}
		se.log.Info("released an image from its minimum age", "image", r.Image(), "by", r.By)
		_, _ = fmt.Fprintf(out, "Released %s: the next run mirrors it.\n", r.Image())
	}
	return nil
}

// meant returns the releases of a digest, of a tag that waits, or of all tags of a repository
// that wait.
func meant(r reference.Reference, waiting []display.WaitingTag) (all []release.Release) {
	add := func(tag reference.Tag, digest reference.Digest) {
		all = append(all, release.Release{Repository: r.Repository, Digest: digest, Tag: tag, By: operator(), At: time.Now().UTC()})
	}
	if !r.Digest.IsZero() {
		add(r.Tag, r.Digest)
		return all
	}
	for _, w := range waiting {
		if w.Repository == r.Repository && (r.Tag.IsZero() || w.Tag == r.Tag) {
			add(w.Tag, w.Digest)
		}
	}
	return all
}

// operator returns who runs this process, for the audit.
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
