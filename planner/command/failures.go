package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/environment"
	"github.com/osism/skopeo-worker/worker/prune"
	"github.com/osism/skopeo-worker/worker/service"
)

func failedCommand() *cobra.Command {
	var s settings
	var format formatFlag
	var exitCode bool
	c := &cobra.Command{
		Annotations: config.Annotation(s.stored()...),

		Use:   "failed",
		Short: "List failed images by repository, with their errors",
		Long:  "List the failed images by repository, each with its error. A failure is kept until\nit is republished, or until a run finds the image mirrored.",
		Args:  atMost(0),
		RunE: s.onStore(func(cmd *cobra.Command, se *session, _ []string) error {
			records, err := se.failures.List(cmd.Context(), se.name)
			if err != nil {
				return err
			}
			if err := se.showFailed(cmd.Context(), records, format, cmd.OutOrStdout()); err != nil {
				return err
			}
			if exitCode && slices.ContainsFunc(records, relevant) {
				return errFailed
			}
			return nil
		}),
	}
	format.add(c)
	c.Flags().BoolVar(&exitCode, "exit-code", false, "exit with code 1 if there are failures of images of the list")
	return c
}

// relevant reports whether a record is unreadable, or has failures of images that the list still has.
func relevant(r failure.Record) bool {
	return r.Unreadable || slices.ContainsFunc(r.Images, func(i failure.Image) bool { return i.LeftList.IsZero() })
}

func (se *session) showFailed(ctx context.Context, records []failure.Record, format formatFlag, out io.Writer) error {
	if format.json {
		if records == nil {
			records = []failure.Record{}
		}
		return printJSON(out, records)
	}
	var names []string
	if len(records) == 0 {
		var err error
		if names, err = se.names(ctx); err != nil {
			return err
		}
	}
	display.Failures(out, se.name, records, names)
	return nil
}

func forgetCommand() *cobra.Command {
	var s settings
	var f failureFilter
	c := &cobra.Command{
		Annotations: config.Annotation(s.stored()...),

		ValidArgsFunction: completeRepository,

		Use:   "forget REPOSITORY… | --left-list",
		Short: "Delete failures, so that they are not listed and retried",
		Long:  "Delete the failures of the named repositories or images, or those of images that the\nlist no longer has. A message that cannot be read is named as planner failed names it.\nThe log names every failure that was deleted.",
		Args: func(_ *cobra.Command, args []string) error {
			if f.leftList == (len(args) > 0) {
				return fmt.Errorf("%w: expected repositories or --left-list", errUsage)
			}
			f.name(args...)
			return nil
		},
		RunE: s.onStore(func(cmd *cobra.Command, se *session, _ []string) error {
			return se.forget(cmd.Context(), &f, cmd.OutOrStdout())
		}),
	}
	c.Flags().BoolVar(&f.leftList, "left-list", false, "delete the failures of images that the list no longer has")
	return c
}

// failureFilter selects failures to forget or to republish.
type failureFilter struct {
	named    map[string]bool // repositories, images and unreadable messages; true once one is found
	image    string          // the image with this source
	leftList bool            // images that have left the list
	chunk    int             // the failures of the chunk with this number
	all      bool
}

// name adds repositories, images and unreadable messages.
func (f *failureFilter) name(names ...string) {
	f.named = map[string]bool{}
	for _, name := range names {
		if r, err := reference.Parse(name); err == nil {
			name = r.String()
		}
		f.named[name] = false
	}
}

func (f *failureFilter) match(r failure.Record, i failure.Image) bool {
	matched := f.all || f.leftList && !i.LeftList.IsZero() || f.chunk > 0 && r.Chunk == f.chunk || f.image != "" && i.Source == f.image
	for _, name := range []string{r.Repository, i.Source} {
		if _, named := f.named[name]; named {
			f.named[name], matched = true, true
		}
	}
	return matched
}

// missing returns an error that lists the names without failures, or nil.
func (f *failureFilter) missing(mirror string) error {
	var missing []string
	for name, found := range f.named {
		if !found {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return errNone(strings.Join(missing, ", "), mirror)
}

// errNone returns the error for a name without failures.
func errNone(what, mirror string) error {
	return fmt.Errorf("%w: no failures of %s are recorded under the name %s; planner failed lists them", errUsage, what, mirror)
}

// forget deletes failures. If a name has no failures, it deletes nothing.
func (se *session) forget(ctx context.Context, f *failureFilter, out io.Writer) error {
	records, err := se.failures.List(ctx, se.name)
	if err != nil {
		return err
	}
	for _, r := range records {
		for _, i := range r.Images {
			f.match(r, i)
		}
	}
	if err := f.missing(se.name); err != nil {
		return err
	}
	done, err := se.failures.Forget(ctx, se.name, f.match)
	if done.Images > 0 {
		_, _ = fmt.Fprintf(out, "Deleted %s.\n", display.Count(done.Images, "failure", "failures"))
	}
	if done.Unreadable > 0 {
		_, _ = fmt.Fprintf(out, "Deleted %s.\n", display.Count(done.Unreadable, "unreadable message", "unreadable messages"))
	}
	switch {
	case err != nil:
		return err
	case len(done.Changed) > 0:
		return fmt.Errorf("%w: failures of %s were recorded meanwhile, so none of them was deleted; run planner failed, then repeat the command",
			errUnfinished, strings.Join(done.Changed, ", "))
	case done.Images+done.Unreadable == 0:
		_, _ = fmt.Fprintln(out, "Nothing to delete.")
	}
	return nil
}

// oneWay checks that the failures are selected in one way, and takes their names.
func (f *failureFilter) oneWay(cmd *cobra.Command, args []string) error {
	ways := 0
	byChunk := cmd.Flags().Changed("chunk")
	for _, way := range []bool{len(args) > 0, byChunk, f.all} {
		if way {
			ways++
		}
	}
	if ways != 1 {
		return fmt.Errorf("%w: expected repositories or images, --chunk N, or --all", errUsage)
	}
	if byChunk && f.chunk < 1 {
		return fmt.Errorf("%w: --chunk needs a number, 1 or more", errUsage)
	}
	f.name(args...)
	return nil
}

func republishCommand() *cobra.Command {
	var s settings
	var f failureFilter
	c := &cobra.Command{
		Annotations: config.Annotation(s.copies()...),

		ValidArgsFunction: completeRepository,

		Use:   "republish REPOSITORY[:TAG|@DIGEST]… | --chunk N | --all",
		Short: "Retry failed images",
		Long:  "Retry failed images: the named ones, those of the named repositories, those of a\nchunk, or all. Without NATS_URL, this process mirrors them at once, unless a planner\nserve or mirror runs with the same DATA_DIR: then that one mirrors them.",
		Args:  f.oneWay,
		RunE: s.explained(func(cmd *cobra.Command, _ []string) error {
			ctx, out := cmd.Context(), cmd.OutOrStdout()
			if err := config.Load(s.copies()...); err != nil {
				return err
			}
			if err := s.hasStore(); err != nil {
				return err
			}
			environment.Confine(s.registries.ChildEnv)
			se, err := connect(ctx, &s, joinOrOwn, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer se.Close()
			if !se.Embedded() {
				_, err = se.republish(ctx, &f, out)
				return err
			}
			if err := service.Ready(ctx, &s.worker); err != nil {
				return err
			}
			e, err := service.Listen(s.metrics.Addr, Version, s.log.Logger(cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			se.color = colorOf(cmd)
			r, err := se.republish(ctx, &f, out)
			if err != nil || r.Chunks == 0 {
				return err
			}
			return e.Serve(ctx, func(ctx context.Context) error { return se.work(ctx, &s, e, r, shown{out: out, messages: out}) })
		}),
	}
	c.Flags().BoolVar(&f.all, "all", false, "retry all failures")
	c.Flags().IntVar(&f.chunk, "chunk", 0, "retry the failures of the chunk with this `number`")
	_ = c.RegisterFlagCompletionFunc("chunk", completeChunk) // the flag exists
	return c
}

// republish publishes the failures as a new run.
func (se *session) republish(ctx context.Context, f *failureFilter, out io.Writer) (run.Run, error) {
	records, err := se.failures.List(ctx, se.name)
	if err != nil {
		return run.Run{}, err
	}
	found, unreadable := 0, 0
	for _, r := range records {
		switch {
		case r.Unreadable && f.all:
			unreadable++
		case !r.Unreadable:
			for _, i := range r.Images {
				if f.match(r, i) {
					found++
				}
			}
		}
	}
	if unreadable > 0 {
		_, _ = fmt.Fprintf(out, "%s: see planner failed.\n",
			display.Count(unreadable, "message among the failures cannot be read and stays", "messages among the failures cannot be read and stay"))
	}
	if err := f.missing(se.name); err != nil {
		return run.Run{}, err
	}
	if found == 0 && f.image != "" {
		return run.Run{}, errNone(f.image, se.name)
	}
	if found == 0 && f.chunk > 0 {
		return run.Run{}, errNone(fmt.Sprintf("chunk %d", f.chunk), se.name)
	}
	if found == 0 {
		_, _ = fmt.Fprintln(out, "Nothing to republish.")
		return run.Run{}, nil
	}
	now := time.Now()
	r := run.Run{Name: se.name, ID: run.NewID(now), Kind: run.KindRepublish, Started: now.UTC(), FirstDue: now.UTC()}
	if err := se.runs.Put(ctx, r); err != nil {
		return r, err
	}
	if err := prune.Await(ctx, se.Broker, "", se.heldBack); err != nil {
		_, noted := se.noteRepublished(ctx, r)
		return r, errors.Join(err, noted)
	}
	done, err := se.failures.Republish(ctx, se.name, r.ID, f.match)
	for _, repository := range done.Taken {
		_, _ = fmt.Fprintf(out, "%s: republished or removed by another process already.\n", repository)
	}
	r.Chunks, r.Entries, r.Published = done.Chunks, done.Images, true
	r, noted := se.noteRepublished(ctx, r)
	if err == nil {
		err = noted
	}
	if err == nil && done.Chunks == 0 && len(done.Taken) == 0 {
		_, _ = fmt.Fprintln(out, "Nothing left to republish: another process has republished it already.")
	}
	if err == nil && done.Chunks > 0 {
		_, _ = fmt.Fprintf(out, "Republished %s in %s as run %s.\n",
			display.Count(done.Images, "image", "images"), display.Count(done.Chunks, "chunk", "chunks"), r.ID)
	}
	return r, err
}

// noteTimeout bounds how long a republish takes to store its numbers, even if it was interrupted.
const noteTimeout = 10 * time.Second

// noteRepublished stores the numbers of a republish, and returns the run as it is stored. If it has
// published nothing, it deletes the run. If another process has cancelled the run meanwhile, it returns
// errUnfinished.
func (se *session) noteRepublished(ctx context.Context, r run.Run) (run.Run, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	if r.Chunks > 0 {
		return se.published(ctx, r)
	}
	// The broker may have stored a chunk, and only its answer was lost.
	left, err := se.Count(ctx, subject.OfRun(r.Name, r.ID))
	if err != nil {
		return r, err
	}
	begun, err := se.runs.AllProgress(ctx, r.Name, r.ID)
	if err != nil || left > 0 || len(begun) > 0 {
		return r, err
	}
	return r, se.runs.Delete(ctx, r.Name, r.ID)
}

// published stores the numbers of a republish that has published chunks.
func (se *session) published(ctx context.Context, r run.Run) (run.Run, error) {
	stored, err := se.runs.Update(ctx, r.Name, r.ID, func(known *run.Run) {
		known.Chunks, known.Entries, known.Published, known.Interrupted = r.Chunks, r.Entries, true, false
	})
	switch {
	case errors.Is(err, run.ErrNotFound): // another process took it for interrupted, or the bucket was deleted
		return r, se.runs.Put(ctx, r)
	case err == nil && stored.Ended != "":
		return stored, fmt.Errorf("%w: run %s was %s while it was published; its images become failures again", errUnfinished, r.ID, stored.Ended)
	}
	return stored, err
}
