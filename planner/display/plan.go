package display

import (
	"cmp"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
)

// PlannedChunk is a chunk that would be published.
type PlannedChunk struct {
	Number   int       `json:"chunk"`
	Due      time.Time `json:"due"`
	Registry string    `json:"registry"`
	Entries  []string  `json:"entries"`
}

// Plan shows the chunks of a plan, with one entry per line.
func Plan(w io.Writer, planned []PlannedChunk, now time.Time) {
	var p page
	defer p.to(w)
	if len(planned) == 0 {
		p.line("The plan is empty: there is no such chunk.")
		return
	}
	entries, last := 0, planned[0].Due
	var rows [][]string
	for _, c := range planned {
		head := []string{strconv.Itoa(c.Number), dueColumn(c.Due, now), c.Registry}
		for _, entry := range c.Entries {
			rows = append(rows, append(head, entry))
			head = []string{"", "", ""}
		}
		entries += len(c.Entries)
		if c.Due.After(last) {
			last = c.Due
		}
	}
	p.table(0, []column{number("CHUNK"), text("DUE"), text("REGISTRY"), text("ENTRIES")}, rows)
	p.line("")
	p.line("%s in %s, the last due %s.", Count(entries, "entry", "entries"), chunks(len(planned)), due(last, now))
}

func dueColumn(t, now time.Time) string {
	if t.After(now) {
		return momentAndRelative(t, now)
	}
	return "now"
}

// summaryFailures is how many reasons of failures a summary shows. They fit on a screen.
const summaryFailures = 10

// Summary shows how a run ended, its images by outcome, and the first failures.
func Summary(w io.Writer, s run.Status, failures []failure.Record, now time.Time, screen Screen) {
	p := page{screen: screen}
	defer p.to(w)
	headline(&p, s, duration(s, now))
	for _, a := range append(outcomes(s.Images), amount{s.Pulls, "pulls"}) {
		detail := ""
		if a.what == "copied" && s.Bytes > 0 {
			detail = "  (" + Size(s.Bytes) + ")"
		}
		p.line("  %-9s %7d%s", a.what, a.n, detail)
	}
	if s.State == run.StateDone && s.Images.Total == 0 && s.Chunks.Done > 0 {
		p.line("")
		p.line("warning: the list selects no image; planner check shows why")
	}
	p.notes("FAILED: ", s.FailedNamespaces)
	if len(failures) > 0 {
		firstFailures(&p, failures)
	}
}

// whatIsLost explains lost chunks.
const whatIsLost = "Lost chunks are neither done nor at the broker, and the run was not ended: plan again."

func headline(p *page, s run.Status, took time.Duration) {
	p.line("")
	c := stateColor(s.State)
	switch {
	case !s.Over():
		p.painted(c, "Run %s is unfinished after %s: %d of %s done. The rest is kept; the next worker continues it.",
			s.Run, span(took), s.Chunks.Done, chunks(s.Chunks.Total))
	case s.State == run.StateCancelled || s.State == run.StateSuperseded:
		p.painted(c, "Run %s was %s after %s: %d of %s done.", s.Run, s.State, span(took), s.Chunks.Done, chunks(s.Chunks.Total))
	case s.State == run.StateLost:
		p.painted(c, "Run %s has LOST %d of %s after %s; %d done. %s",
			s.Run, s.Chunks.Lost, chunks(s.Chunks.Total), span(took), s.Chunks.Done, whatIsLost)
	default:
		ended := "is done"
		if s.State == run.StateFailed {
			ended = "ended with failures"
		}
		p.painted(c, "Run %s %s after %s: %s.", s.Run, ended, span(took), images(s.Images.Total))
	}
}

// firstFailures shows each reason once, starting with the reason of most images.
func firstFailures(p *page, failures []failure.Record) {
	all, shown := failed(failures), 0
	p.line("")
	p.painted(red, "%s failed:", images(all))
	groups := byReason(failures)
	slices.SortStableFunc(groups, func(a, b failedAlike) int { return cmp.Compare(len(b.images), len(a.images)) })
	for _, g := range groups[:min(len(groups), summaryFailures)] {
		p.line("%*s%s:", imageIndent, "", g.summary())
		p.wrapped(reasonIndent, g.reason)
		shown += len(g.images)
	}
	if shown < all {
		p.line("  … and %d more", all-shown)
	}
	p.line("")
	p.line("List all with:    planner failed")
	p.line("Retry them with:  %s", republish(failures))
}
