package display

import (
	"fmt"
	"io"
	"time"

	"github.com/osism/skopeo-worker/shared/run"
)

// Status shows how a run stands.
func Status(w io.Writer, s run.Status, now time.Time) {
	var p page
	defer p.to(w)
	p.line("Run %s of %s: %s", s.Run, s.Name, stateText(s.State))
	p.table(func(t io.Writer) {
		row := func(name, format string, args ...any) {
			_, _ = fmt.Fprintf(t, "  %s\t%s\n", name, fmt.Sprintf(format, args...))
		}
		row("started", "%s", momentAndRelative(s.Started, now))
		if s.Finished != nil {
			row("finished", "%s (took %s)", moment(*s.Finished), span(s.Finished.Sub(s.Started)))
		}
		c := s.Chunks
		row("chunks", "%d: %d done, %d running, %d snoozed, %d waiting", c.Total, c.Done, c.Running, c.Snoozed, c.Waiting)
		row("images", "%d: %s", s.Images.Total, list(outcomes(s.Images)))
		row("pulls", "%d", s.Pulls)
		row("copied", "%s", size(s.Bytes))
		if s.NextDue != nil {
			row("next due", "%s", dueColumn(*s.NextDue, now))
		}
	})
	registries(&p, s.Registries, now)
	if s.Images.Failed > 0 {
		p.line("")
		p.line("See what failed with: planner failed")
	}
}

// registries shows what the source registries allow.
func registries(p *page, all []run.Registry, now time.Time) {
	if len(all) == 0 {
		return
	}
	p.line("")
	p.table(func(t io.Writer) {
		_, _ = fmt.Fprintln(t, "  REGISTRY\tBUDGET\tSPENT\tSTATE")
		for _, r := range all {
			_, _ = fmt.Fprintf(t, "  %s\t%s\t%d\t%s\n", r.Registry, budget(r), r.Spent, registryState(r, now))
		}
	})
}

func budget(r run.Registry) string {
	if r.Limit == 0 {
		return "unlimited"
	}
	window := r.Window
	if d, err := time.ParseDuration(window); err == nil {
		window = span(d)
	}
	return fmt.Sprintf("%d per %s", r.Limit, window)
}

func registryState(r run.Registry, now time.Time) string {
	switch {
	case r.ClosedUntil != nil && r.ClosedUntil.After(now):
		closed := "closed until " + momentAndRelative(*r.ClosedUntil, now)
		if r.Reason != "" {
			closed += ": " + printable(r.Reason)
		}
		return closed
	case r.NextSlot != nil && r.NextSlot.After(now):
		return "spent until " + momentAndRelative(*r.NextSlot, now)
	}
	return "open"
}

// stateText says a state in words, where its name alone could mislead.
func stateText(state string) string {
	if state == run.StateFailed {
		return "done, with failures"
	}
	return state
}

// Runs shows a line for each run.
func Runs(w io.Writer, all []run.Status, now time.Time) {
	var p page
	defer p.to(w)
	if len(all) == 0 {
		p.line("Nothing has run in the last %d days.", int(run.Keep/day))
		return
	}
	p.table(func(t io.Writer) {
		_, _ = fmt.Fprintln(t, "RUN\tSTATE\tSTARTED\tTOOK\tCHUNKS\tIMAGES\tCOPIED\tFAILED\tPULLS")
		for _, s := range all {
			_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d/%d\t%d\t%d\t%d\t%d\n",
				s.Run, stateText(s.State), moment(s.Started), took(s, now),
				s.Chunks.Done, s.Chunks.Total, s.Images.Total, s.Images.Copied, s.Images.Failed, s.Pulls)
		}
	})
}

// took is how long a run has taken so far. When a run ended is not known where no
// worker ever had a chunk of it.
func took(s run.Status, now time.Time) string {
	switch {
	case s.Finished != nil:
		return span(s.Finished.Sub(s.Started))
	case s.Over():
		return "-"
	}
	return span(now.Sub(s.Started))
}
