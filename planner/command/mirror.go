package command

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/service"
)

func mirrorCommand() *cobra.Command {
	var s settings
	var force bool
	var format formatFlag
	reads := append([]any{&s.job}, s.copies()...)
	c := &cobra.Command{
		Annotations: config.Annotation(reads...),

		Use:   "mirror",
		Short: "Plan and mirror in one process, without a broker or workers",
		Long:  "Fetch the list, split it, and mirror it with a worker in this process. The broker is\nembedded and stores its data in DATA_DIR; if NATS_URL is set, that broker is used.\nThe same command continues an interrupted run.",
		Args:  atMost(0),
		RunE: s.loaded(reads, func(cmd *cobra.Command) error {
			ctx, out := cmd.Context(), format.messages(cmd)
			p, err := prepare(ctx, &s, cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if err := service.Ready(ctx, &s.worker, p.registries()...); err != nil {
				return err
			}
			e, err := service.Listen(s.metrics.Addr, Version, s.log.Logger(cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			se, err := connect(ctx, &s, own, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer se.Close()
			se.color = colorOf(cmd)
			if err := p.expand(ctx, se.Broker, &s, cmd.ErrOrStderr()); err != nil {
				return err
			}
			r, err := se.begin(ctx, p, force, out)
			if err != nil || r.Chunks == 0 {
				return err
			}
			return e.Serve(ctx, func(ctx context.Context) error {
				return se.work(ctx, &s, e, r, shown{cmd.OutOrStdout(), out, format})
			})
		}),
	}
	addForce(c, &force)
	format.add(c)
	return c
}

// begin returns the unfinished run of the same plan, or publishes a new one. The new run has no chunks
// if there is nothing to mirror.
func (se *session) begin(ctx context.Context, p *planned, force bool, out io.Writer) (run.Run, error) {
	r, err := se.unfinished(ctx, p)
	if err != nil {
		return run.Run{}, err
	}
	if r.ID != "" {
		p.markLeft(ctx, se) // the process that published the run may have been killed before
		_, _ = fmt.Fprintf(out, "Continuing run %s.\n", r.ID)
		return r, nil
	}
	if r, err = p.publish(ctx, se, force); err != nil {
		return run.Run{}, err
	}
	if r.Chunks == 0 {
		_, _ = fmt.Fprintf(out, "Nothing to mirror: there is no chunk %d.\n", p.chunking.Number)
		return r, nil
	}
	_, _ = fmt.Fprintf(out, "Mirroring %s as run %s.\n", extent(r), r.ID)
	return r, nil
}

// extent returns the numbers of entries and chunks of a run, as text.
func extent(r run.Run) string {
	return display.Count(r.Entries, "entry", "entries") + " in " + display.Count(r.Chunks, "chunk", "chunks")
}

// unfinished returns the newest run if it has the same plan and is not over; otherwise a zero run.
func (se *session) unfinished(ctx context.Context, p *planned) (run.Run, error) {
	r, err := se.runs.Get(ctx, se.name, "")
	if errors.Is(err, run.ErrNotFound) {
		return run.Run{}, nil
	}
	if err != nil || r.Fingerprint != p.fingerprint || !r.Published {
		return run.Run{}, err
	}
	status, err := se.status(ctx, r.ID)
	if err != nil || status.Over() {
		return run.Run{}, err
	}
	return r, nil
}

// shown has the outputs of a command that follows a run, and their format.
type shown struct {
	out, messages io.Writer
	format        formatFlag
}

// work runs a worker in this process until the run is over.
func (se *session) work(ctx context.Context, s *settings, e *service.Endpoint, r run.Run, to shown) error {
	w, err := service.New(ctx, e, se.Broker, se.budget, s.worker, s.registries, s.trust, se.log)
	if err != nil {
		return err
	}
	if se.Embedded() && display.Width(to.out) == nil {
		se.drained = w.Consumer.Drained()
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	following, failed := context.WithCancelCause(ctx)
	defer failed(nil)
	go func() {
		err := w.Run(working)
		if err != nil {
			failed(err)
		}
		ended <- err
	}()
	err = se.follow(following, r.ID, to.out, to.format)
	stop()
	if errors.Is(err, errUnfinished) && ctx.Err() != nil {
		_, _ = fmt.Fprintln(to.messages, "Stopping: running copies get a moment to finish.")
		err = fmt.Errorf("%w: interrupted; the same command continues run %s", errUnfinished, r.ID)
	}
	away := (*awayError)(nil)
	if errors.As(err, &away) {
		away.next = "the same command continues it"
	}
	worked := <-ended
	if worked != nil && away == nil && errors.Is(err, errUnfinished) && ctx.Err() == nil {
		return worked // following ended because of it
	}
	return errors.Join(err, worked)
}
