package command

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/reference"
)

func forgetCommand() *cobra.Command {
	var s settings
	var leftList bool
	c := &cobra.Command{
		Use:   "forget REPOSITORY… | --left-list",
		Short: "Delete failures, so that they are not listed and retried",
		Long:  "Delete the failures of the named repositories or images, or those of images that the\nlist no longer has. A message that cannot be read is named as planner failed names it.\nThe log names every failure that was deleted.",
		RunE: s.explained(func(cmd *cobra.Command, args []string) error {
			u, err := newUnwanted(args, leftList)
			if err != nil {
				return err
			}
			se, err := open(cmd.Context(), &s, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer se.Close()
			return se.forget(cmd.Context(), u, cmd.OutOrStdout())
		}),
	}
	c.Flags().BoolVar(&leftList, "left-list", false, "failures of images that the list no longer has")
	return c
}

// unwanted is which failures to forget.
type unwanted struct {
	names    map[string]bool // of repositories, images and unreadable messages; false until one is found
	leftList bool
}

func newUnwanted(args []string, leftList bool) (*unwanted, error) {
	if leftList == (len(args) > 0) {
		return nil, fmt.Errorf("%w: expected repositories or --left-list", errUsage)
	}
	u := &unwanted{names: map[string]bool{}, leftList: leftList}
	for _, arg := range args {
		if r, err := reference.Parse(arg); err == nil {
			arg = r.String()
		}
		u.names[arg] = false
	}
	return u, nil
}

func (u *unwanted) match(r failure.Record, i failure.Image) bool {
	for _, name := range []string{r.Repository, i.Source} {
		if _, named := u.names[name]; named {
			u.names[name] = true
			return true
		}
	}
	return u.leftList && !i.LeftList.IsZero()
}

func (u *unwanted) missing() []string {
	var missing []string
	for name, found := range u.names {
		if !found {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	return missing
}

// forget deletes failures. If one of the names has none, it deletes nothing.
func (se *session) forget(ctx context.Context, u *unwanted, out io.Writer) error {
	records, err := se.failures.List(ctx, se.name)
	if err != nil {
		return err
	}
	for _, r := range records {
		for _, i := range r.Images {
			u.match(r, i)
		}
	}
	if missing := u.missing(); len(missing) > 0 {
		return fmt.Errorf("%w: no failures of %s are recorded under the name %s; planner failed lists them",
			errUsage, strings.Join(missing, ", "), se.name)
	}
	done, err := se.failures.Forget(ctx, se.name, u.match)
	if done.Images > 0 {
		_, _ = fmt.Fprintf(out, "Deleted %s.\n", count(done.Images, "failure", "failures"))
	}
	if done.Unreadable > 0 {
		_, _ = fmt.Fprintf(out, "Deleted %s.\n", count(done.Unreadable, "unreadable message", "unreadable messages"))
	}
	switch {
	case err != nil:
		return err
	case len(done.Changed) > 0:
		return fmt.Errorf("%w: failures of %s were recorded meanwhile; nothing of them was deleted: see planner failed, and run the command again",
			errUnfinished, strings.Join(done.Changed, ", "))
	case done.Images+done.Unreadable == 0:
		_, _ = fmt.Fprintln(out, "Nothing to delete.")
	}
	return nil
}
