package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/worker/check"
	"github.com/osism/skopeo-worker/worker/service"
)

// countInterval is how often somebody who waits at a terminal is told how far it is.
const countInterval = 3 * time.Second

func checkCommand() *cobra.Command {
	var s settings
	var format formatFlag
	var exitCode bool
	c := &cobra.Command{
		Use:   "check",
		Short: "Compare the list with the destination, copy nothing",
		Long:  "Resolve the whole list and compare it with the destination, as the workers would,\nand show by repository what there is to do and what it costs. Nothing is copied or\npulled, and no broker is needed.",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, warnings := cmd.OutOrStdout(), cmd.ErrOrStderr()
			if err := config.Load(&s.job, &s.registries, &s.log); err != nil {
				return err
			}
			p, err := prepare(cmd.Context(), &s, cmd.InOrStdin(), warnings)
			if err != nil {
				return err
			}
			report, err := p.check(cmd.Context(), &s, warnings)
			if err != nil {
				return fmt.Errorf("%w: interrupted", errUnfinished)
			}
			if format.json {
				err = printJSON(out, report)
			} else {
				display.Check(out, report)
			}
			switch {
			case err != nil:
				return err
			case report.Totals.Failed > 0:
				return errFailed
			case exitCode && report.ToDo():
				return errToDo
			}
			return nil
		},
	}
	format.add(c)
	c.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 4 where there is something to do")
	return c
}

// check compares the list with the destination. The error is ctx's.
func (p *planned) check(ctx context.Context, s *settings, warnings io.Writer) (check.Report, error) {
	var all []message.Repository
	for _, c := range p.chunks {
		all = append(all, c.Repositories()...)
	}
	checker := service.NewChecker(s.registries, s.log.Logger(warnings))
	if f, ok := warnings.(*os.File); ok && display.IsTerminal(f) {
		var done, total atomic.Int64
		checker.Progress = func(d, t int) { done.Store(int64(d)); total.Store(int64(t)) }
		counting, stop := context.WithCancel(ctx)
		defer stop()
		go every(counting, countInterval, func() {
			_, _ = fmt.Fprintf(f, "%d of %d repositories checked\n", done.Load(), total.Load())
		})
	}
	return checker.Check(ctx, all)
}

// every calls do at an interval until ctx ends.
func every(ctx context.Context, interval time.Duration, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do()
		}
	}
}
