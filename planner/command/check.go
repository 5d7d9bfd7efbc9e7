package command

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/worker/check"
	"github.com/osism/skopeo-worker/worker/service"
)

func checkCommand() *cobra.Command {
	var s settings
	var format formatFlag
	var exitCode, access, signatures bool
	reads := []any{&s.job, &s.name, &s.broker, &s.registries, &s.trust, &s.log}
	c := &cobra.Command{
		Annotations: config.Annotation(reads...),

		Use:   "check",
		Short: "Show what a run would do and cost; copies nothing",
		Long:  "Resolve the whole list, compare it with the destination as the workers do, and show\nfor each repository what a run would copy, how many pulls that costs, and how long\nthe budgets make it take. Nothing is copied or pulled. No broker is needed; if there\nis one, the requests count toward the budgets of its workers.",
		Args:  atMost(0),
		RunE: s.loaded(reads, func(cmd *cobra.Command) error {
			out, warnings := cmd.OutOrStdout(), cmd.ErrOrStderr()
			if signatures && s.trust.Policy == "" {
				return fmt.Errorf("%w: --signatures needs SIGNATURE_POLICY", errUsage)
			}
			p, err := prepare(cmd.Context(), &s, cmd.InOrStdin(), warnings)
			if err != nil {
				return err
			}
			if access {
				return p.access(cmd.Context(), &s, format, out, warnings)
			}
			report, err := p.check(cmd.Context(), &s, signatures, warnings)
			if cmd.Context().Err() != nil {
				return fmt.Errorf("%w: interrupted", errUnfinished)
			}
			if err != nil {
				return err
			}
			if format.json {
				err = printJSON(out, report)
			} else {
				display.Check(out, report, screen(cmd))
			}
			switch {
			case err != nil:
				return err
			case report.Totals.Failed+report.Totals.Rejected > 0:
				return errFailed
			case exitCode && report.ToDo():
				return errToDo
			}
			return nil
		}),
	}
	format.add(c)
	c.Flags().BoolVar(&exitCode, "exit-code", false, "exit with code 4 if there is something to do")
	c.Flags().BoolVar(&access, "access", false, "show only whether the list, the broker and the registries can be used")
	c.Flags().BoolVar(&signatures, "signatures", false, "verify all images against SIGNATURE_POLICY, including those that are up to date; takes pulls")
	exclusive(c, "access", "exit-code", "signatures")
	return c
}

// access shows whether the list, the broker and the registries can be used. It shows the reason of each
// failure, and returns errFailed if there is one.
func (p *planned) access(ctx context.Context, s *settings, format formatFlag, out, warnings io.Writer) error {
	if !format.json {
		_, _ = fmt.Fprintf(out, "list: %s: %s\n", p.owner.Source, display.Count(len(p.list.Entries)+len(p.list.Namespaces), "entry", "entries"))
	}
	b, done, err := shared(ctx, s.broker, s.log.Logger(warnings))
	if err != nil {
		return err
	}
	defer done()
	if !format.json && !s.broker.Embedded() {
		_, _ = fmt.Fprintf(out, "broker: %s: connected\n", b.Conn.ConnectedUrlRedacted())
	}
	unlisted := p.expand(ctx, b, s, warnings)
	if unlisted != nil && (format.json || ctx.Err() != nil) {
		return unlisted
	}
	checker, err := service.NewChecker(ctx, b, s.registries, s.trust, false, p.limits, s.log.Logger(warnings))
	if err != nil {
		return err
	}
	defer checker.Close()
	rows, err := checker.Access(ctx, p.repositories())
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w: interrupted", errUnfinished)
	case err != nil:
		return err
	case format.json:
		err = printJSON(out, rows)
	default:
		display.Access(out, rows)
	}
	if unlisted != nil {
		_, _ = fmt.Fprintln(out, "FAILED:", unlisted)
		return errFailed
	}
	refused := slices.ContainsFunc(rows, func(a check.Access) bool { return a.Reason != "" })
	if err == nil && (refused || len(p.failedNamespaces()) > 0) { // the warnings list the namespaces
		err = errFailed
	}
	return err
}

// repositories returns the entries of all chunks.
func (p *planned) repositories() []message.Repository {
	var all []message.Repository
	for _, c := range p.chunks {
		all = append(all, c.Repositories()...)
	}
	return all
}

// check compares the list with the destination. It returns the forecast of a run.
func (p *planned) check(ctx context.Context, s *settings, signatures bool, warnings io.Writer) (check.Report, error) {
	var progress func(done, total int)
	if display.Width(warnings) != nil {
		line := display.NewDrawn(warnings)
		defer line.Clear()
		progress = func(done, total int) { line.Draw(fmt.Sprintf("%d of %d repositories checked", done, total)) }
		warnings = line.Above(warnings)
	}
	log := s.log.Logger(warnings)
	b, done, err := shared(ctx, s.broker, log)
	if err != nil {
		return check.Report{}, err
	}
	defer done()
	if err := p.expand(ctx, b, s, warnings); err != nil {
		return check.Report{}, err
	}
	checker, err := service.NewChecker(ctx, b, s.registries, s.trust, signatures, p.limits, log)
	if err != nil {
		return check.Report{}, err
	}
	defer checker.Close()
	report, err := checker.Check(ctx, p.repositories(), progress)
	for _, row := range report.Repositories {
		for _, failed := range [][]check.Failed{row.Failed, row.Rejected} {
			for i := range failed {
				failed[i].Line = p.line(row, failed[i].Image)
			}
		}
	}
	if p.namespaces != nil {
		for _, f := range p.namespaces.Failed {
			report.Namespaces = append(report.Namespaces, check.Failed{Image: f.Text, Reason: f.Why, Line: f.Line})
		}
		report.Totals.Failed += len(report.Namespaces)
	}
	if n := len(p.chunks); n > 0 {
		report.Totals.NotBefore(p.chunks[n-1].Due.Sub(p.started))
	}
	return report, err
}

// line returns the line of the list that names the image of a row. It returns 0 if several may do so.
func (p *planned) line(row check.Row, image string) int {
	var lines []int
	for _, e := range p.list.Entries {
		if e.Repository != row.Repository || e.Destination != row.Destination {
			continue
		}
		if e.Reference.String() == image {
			return e.Line
		}
		lines = append(lines, e.Line)
	}
	if lines = slices.Compact(lines); len(lines) == 1 { // entries are sorted by line
		return lines[0]
	}
	return 0
}

// shared opens the broker whose budgets the requests count toward: that of NATS_URL, or the one in
// DATA_DIR. If neither exists, it starts a temporary one, because budgets need a broker. done closes
// it.
func shared(ctx context.Context, c broker.Config, log *slog.Logger) (b *broker.Broker, done func(), err error) {
	remove := func() {}
	if c.Embedded() && !broker.Kept(c.DataDir) {
		if c.DataDir, err = os.MkdirTemp("", "skopeo-worker-check-"); err != nil {
			return nil, nil, fmt.Errorf("create a folder for the budget of the check in TMPDIR: %w", err)
		}
		remove = func() { _ = os.RemoveAll(c.DataDir) }
	}
	b, err = openBroker(ctx, c, join, log)
	if err != nil {
		remove()
		return nil, nil, err
	}
	return b, func() { b.Close(); remove() }, nil
}
