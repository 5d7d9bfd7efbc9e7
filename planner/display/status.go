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
	for i, w := range s.Warnings {
		if i == 0 {
			p.line("")
		}
		p.wrapped(0, "warning: "+w)
	}
	failedNamespaces(&p, s)
	if s.Chunks.Lost > 0 {
		p.line("")
		p.painted(red, "%d of %s LOST. %s", s.Chunks.Lost, chunks(s.Chunks.Total), whatIsLost)
	}
	if s.Images.Failed > 0 || s.Failures != (run.Failures{}) {
		p.line("")
		p.line("List the failures with: planner failed")
	}
}

// failedNamespaces shows why the run does not have all that the list names.
func failedNamespaces(p *page, s run.Status) {
	for i, f := range s.FailedNamespaces {
		if i == 0 {
			p.line("")
		}
		p.wrapped(0, "FAILED: "+f)
	}
}

// estimateText shows the earliest time at which the run can be done.
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

// registries shows the limits of the source registries, and how many pulls are left.
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
		rows = append(rows, []string{printable(r.Registry), budget(r.Limit, r.Window), spent, free, left, done, registryState(r, now)})
		colors = append(colors, registryColor(r, now))
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

// marked returns a value, with a mark if it is a lower bound.
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

func registryState(r run.Registry, now time.Time) string {
	switch {
	case r.ClosedSince != nil:
		return "away for " + span(now.Sub(*r.ClosedSince))
	case r.ClosedUntil != nil && r.ClosedUntil.After(now):
		return "closed for " + span(r.ClosedUntil.Sub(now))
	case r.NextSlot != nil && r.NextSlot.After(now):
		return "spent, next " + relative(*r.NextSlot, now)
	}
	return "open"
}

// registryColor is red if the registry is away, and yellow if pulls from it have to wait.
func registryColor(r run.Registry, now time.Time) paint {
	switch {
	case r.ClosedSince != nil:
		return red
	case r.ClosedUntil != nil && r.ClosedUntil.After(now), r.NextSlot != nil && r.NextSlot.After(now):
		return yellow
	}
	return ""
}

// stateText returns the name of a state, or words if the name could mislead.
func stateText(state string) string {
	if state == run.StateFailed {
		return "done, with failures"
	}
	return state
}

// Runs shows a line for each run.
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

// took returns how long a run has taken so far, or "-" if it is not known. The end of a run
// is not known if no worker ever had a chunk of it.
func took(s run.Status, now time.Time) string {
	if s.Over() && s.Finished == nil {
		return "-"
	}
	return span(duration(s, now))
}

// duration returns how long a run has taken: until its end, if that is known, or until now.
func duration(s run.Status, now time.Time) time.Duration {
	if s.Finished != nil {
		now = *s.Finished
	}
	return now.Sub(s.Started)
}

// shownCopies is how many copies under way are shown.
const shownCopies = 20

// underWay shows the copies under way, the longest first.
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

// Cancelled shows the chunks and images that were dropped with a run.
func Cancelled(w io.Writer, id string, d plan.Dropped) {
	var p page
	defer p.to(w)
	if d.Chunks == 0 {
		p.line("Cancelled run %s: no chunk was left to drop.", id)
	} else {
		p.line("Cancelled run %s: %s with %s dropped.", id, chunks(d.Chunks), images(d.Images))
	}
	if d.UnderWay > 0 {
		p.line("A worker has %s and may finish it.", chunks(d.UnderWay))
	}
	if d.Unread > 0 {
		p.line("This version cannot read %s; a newer worker drops them.", Count(d.Unread, "message", "messages"))
	}
}
