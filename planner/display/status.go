package display

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/osism/skopeo-worker/planner/plan"
	"github.com/osism/skopeo-worker/shared/run"
)

// Status shows the state of a run.
func Status(w io.Writer, s run.Status, now time.Time, screen Screen) {
	p := page{screen: screen}
	defer p.to(w)
	p.painted(stateColor(s.State), "Mirror %q, run %s: %s", s.Name, s.Run, stateText(s.State))
	var rows [][]string
	row := func(name, format string, args ...any) {
		rows = append(rows, []string{name, fmt.Sprintf(format, args...)})
	}
	row("started", "%s", momentAndRelative(s.Started, now))
	if s.Finished != nil {
		row("finished", "%s (took %s)", moment(*s.Finished), span(s.Finished.Sub(s.Started)))
	}
	c := s.Chunks
	row("chunks", "%s", sum(c.Total, []amount{{c.Done, "done"}, {c.Running, "running"}, {c.Snoozed, "snoozed"}, {c.Waiting, "waiting"}, {c.Dropped, "dropped"}, {c.Lost, "lost"}}))
	row("images", "%s", sum(s.Images.Total, outcomes(s.Images)))
	row("pulls", "%d", s.Pulls)
	row("copied", "%s", Size(s.Bytes))
	if s.NextDue != nil {
		row("next due", "%s", dueColumn(*s.NextDue, now))
	}
	if !s.Over() {
		row("done", "%s", estimateText(s, now))
	}
	f := s.Failures
	if kept := list(known([]amount{{f.Images, "kept for republish"}, {f.LeftList, "left the list"}, {f.Unreadable, "unreadable"}})); kept != "" {
		row("failures", "%s", kept)
	}
	p.table(imageIndent, []column{text(""), text("")}, rows)
	registries(&p, s.Registries, now)
	underWay(&p, s.UnderWay, now)
	p.notes("warning: ", s.Warnings)
	p.notes("FAILED: ", s.FailedNamespaces)
	if s.Chunks.Lost > 0 {
		p.line("")
		p.painted(red, "%d of %s LOST. %s", s.Chunks.Lost, chunks(s.Chunks.Total), whatIsLost)
	}
	if s.Images.Failed > 0 || s.Failures != (run.Failures{}) {
		p.line("")
		p.line("List the failures with: planner failed")
	}
}

// estimateText returns the estimated end of the run as text.
func estimateText(s run.Status, now time.Time) string {
	switch {
	case s.EstimatedDone != nil && s.EstimatedAtLeast:
		return momentAndRelative(*s.EstimatedDone, now) + " at the earliest"
	case s.EstimatedDone != nil:
		return "about " + momentAndRelative(*s.EstimatedDone, now)
	case s.EstimatedAtLeast:
		return "unknown until more chunks are resolved"
	}
	return "as soon as everything is copied; no budget or schedule delays it"
}

// registries shows the budgets of the source registries, and how many pulls the run still needs.
func registries(p *page, all []run.Registry, now time.Time) {
	if len(all) == 0 {
		return
	}
	p.line("")
	var rows [][]string
	var colors []paint
	for _, r := range all {
		spent, free := "-", "-" // not counted
		if r.Free != nil {
			spent, free = strconv.Itoa(r.Spent), strconv.Itoa(*r.Free)
		}
		done := "-"
		if r.EstimatedDone != nil {
			done = due(*r.EstimatedDone, now)
		}
		left := "~" + atLeast(r.ToPull, r.ToPullAtLeast) // an estimate
		switch {
		case r.ToPull == 0 && r.ToPullAtLeast:
			left = "unknown"
		case r.ToPull == 0:
			left = "0"
		}
		state, color := registryState(r, now)
		rows = append(rows, []string{printable(r.Registry), budget(r.Limit, r.Window), spent, free, left, done, state})
		colors = append(colors, color)
	}
	p.table(imageIndent, []column{
		names("REGISTRY"), text("BUDGET"), number("SPENT"), number("FREE"), number("TO PULL"), text("DONE"), text("STATE"),
	}, rows, colors...)
	for _, r := range all {
		switch {
		case r.ClosedSince != nil:
			p.painted(red, "%*s%s has been away since %s: %s", imageIndent, "", printable(r.Registry), moment(*r.ClosedSince), printable(r.Reason))
		case r.ClosedUntil != nil && r.ClosedUntil.After(now):
			p.painted(yellow, "%*s%s is closed until %s: %s", imageIndent, "", printable(r.Registry), moment(*r.ClosedUntil), printable(r.Reason))
		}
	}
}

// marked adds a mark to a value that is a lower bound.
func marked(text string, more bool) string {
	if more {
		return text + "+"
	}
	return text
}

// atLeast formats a number, with a mark if it is a lower bound.
func atLeast(n int, more bool) string { return marked(strconv.Itoa(n), more) }

func budget(limit int, window string) string {
	if limit == 0 {
		return "none known"
	}
	if d, err := time.ParseDuration(window); err == nil {
		window = span(d)
	}
	return fmt.Sprintf("%d per %s", limit, window)
}

// registryState returns the state of a registry as text, and its color.
func registryState(r run.Registry, now time.Time) (string, paint) {
	switch {
	case r.ClosedSince != nil:
		return "away for " + span(now.Sub(*r.ClosedSince)), red
	case r.ClosedUntil != nil && r.ClosedUntil.After(now):
		return "closed for " + span(r.ClosedUntil.Sub(now)), yellow
	case r.NextSlot != nil && r.NextSlot.After(now):
		return "spent, next " + relative(*r.NextSlot, now), yellow
	}
	return "open", ""
}

// stateText returns the state of a run as text.
func stateText(state string) string {
	if state == run.StateFailed {
		return "done, with failures"
	}
	return state
}

// Runs shows a table of runs.
func Runs(w io.Writer, all []run.Status, now time.Time, screen Screen) {
	p := page{screen: screen}
	defer p.to(w)
	if len(all) == 0 {
		p.line("No runs in the last %d days.", int(run.Keep/day))
		return
	}
	var rows [][]string
	var paints []paint
	for _, s := range all {
		c := paint("")
		if s.State != run.StateDone {
			c = stateColor(s.State)
		}
		paints = append(paints, c)
		state := s.State
		if state == run.StateFailed && s.Images.Failed > 0 {
			state = run.StateDone // failures have a column of their own
		}
		rows = append(rows, []string{
			s.Run, state, took(s, now), fmt.Sprintf("%d/%d", s.Chunks.Done, s.Chunks.Total),
			strconv.Itoa(s.Images.Total), strconv.Itoa(s.Images.Copied), strconv.Itoa(s.Images.Failed), strconv.Itoa(s.Pulls),
		})
	}
	p.table(0, []column{
		text("RUN"), text("STATE"), number("TOOK"), number("CHUNKS"), number("IMAGES"), number("COPIED"), number("FAILED"), number("PULLS"),
	}, rows, paints...)
}

// took returns how long a run has taken so far, or "-" if that is unknown. The end of a run is unknown if
// no worker has received a chunk of it.
func took(s run.Status, now time.Time) string {
	if s.Over() && s.Finished == nil {
		return "-"
	}
	return span(duration(s, now))
}

// duration returns the time from the start of a run to its end, or to now if the end is unknown.
func duration(s run.Status, now time.Time) time.Duration {
	if s.Finished != nil {
		now = *s.Finished
	}
	return now.Sub(s.Started)
}

// shownCopies is how many copies under way are listed.
const shownCopies = 20

// underWay shows the copies under way.
func underWay(p *page, all []run.Copy, now time.Time) {
	if len(all) == 0 {
		return
	}
	p.line("")
	columns := []column{names("UNDER WAY"), number("MOVED"), number("RATE"), number("FOR"), names("WORKER")}
	if p.screen.Width == 0 { // a terminal has no room for both names
		columns = slices.Insert(columns, 1, names("TO"))
	}
	var rows [][]string
	for _, c := range all[:min(len(all), shownCopies)] {
		row := []string{printable(c.Image), Size(c.Bytes), rate(c.Rate), span(now.Sub(c.Since)), printable(c.Worker)}
		if p.screen.Width == 0 {
			row = slices.Insert(row, 1, printable(c.Destination))
		}
		rows = append(rows, row)
	}
	p.table(imageIndent, columns, rows)
	if more := len(all) - shownCopies; more > 0 {
		p.line("%*sand %d more", imageIndent, "", more)
	}
}

// rate formats a number of bytes a second.
func rate(bytes int64) string { return Size(bytes) + "/s" }

// Cancelled shows how many chunks and images of a run were dropped.
func Cancelled(w io.Writer, id string, d plan.Dropped) {
	var p page
	defer p.to(w)
	if d.Chunks == 0 {
		p.line("Cancelled run %s: no chunk was left to drop.", id)
	} else {
		p.line("Cancelled run %s: %s with %s dropped.", id, chunks(d.Chunks), images(d.Images))
	}
	switch {
	case d.UnderWay == 1:
		p.line("A worker has 1 chunk and may finish it.")
	case d.UnderWay > 1:
		p.line("Workers have %s and may finish them.", chunks(d.UnderWay))
	}
	if d.Unread > 0 {
		p.line("This version cannot read %s; a newer worker drops them.", Count(d.Unread, "message", "messages"))
	}
}
