package display

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/check"
)

// Check shows the forecast of a run, by repository, and the images that could not be checked.
func Check(w io.Writer, r check.Report, screen Screen) {
	p := page{screen: screen}
	defer p.to(w)
	if len(r.Repositories) == 0 {
		p.line("There is nothing to check.")
		return
	}
	checkTable(&p, r)
	checkRegistries(&p, r.Registries)
	if r.Totals.PullsAtLeast || r.Totals.Bytes != nil && r.Totals.BytesAtLeast {
		p.line("")
		p.line("+ at least: the contents of some indexes are known only after a pull")
	}
	checkImages(&p, r, "could not be checked", r.Namespaces, func(row check.Row) []check.Failed { return row.Failed })
	checkImages(&p, r, "rejected by SIGNATURE_POLICY", nil, func(row check.Row) []check.Failed { return row.Rejected })
	var warnings []string
	for _, row := range r.Repositories {
		for _, w := range row.Warnings {
			warnings = append(warnings, fmt.Sprintf("%s: %s", row.Repository, w))
		}
	}
	p.notes("warning: ", warnings)
	p.line("")
	p.line("%s", conclusion(r))
	if s := r.Totals.Seconds; s != nil && r.ToDo() {
		p.line("Budgets and schedule allow it to finish in %s.", takesText(*s, r.Totals.PullsAtLeast))
	}
}

// checkImages shows images with their reasons, if there are any.
func checkImages(p *page, r check.Report, what string, all []check.Failed, of func(check.Row) []check.Failed) {
	for _, row := range r.Repositories {
		all = append(all, of(row)...)
	}
	if len(all) == 0 {
		return
	}
	p.line("")
	p.line("%d %s:", len(all), what)
	for _, f := range all {
		at := ""
		if f.Line > 0 {
			at = fmt.Sprintf(" (line %d)", f.Line)
		}
		p.line("%*s%s%s:", imageIndent, "", printable(f.Image), at)
		p.wrapped(reasonIndent, f.Reason)
	}
}

// checkTable shows a row for each repository. It leaves out optional columns whose sum is zero.
func checkTable(p *page, r check.Report) {
	all, total := checkColumns(), len(r.Repositories)
	columns, rows := []column{names("REPOSITORY")}, make([][]string, total+1)
	name := checkNames(r.Repositories)
	for i, row := range r.Repositories {
		rows[i] = []string{printable(name(row))}
	}
	rows[total] = []string{"total"}
	for _, c := range all {
		sum := c.cell(r.Totals.Counts, r.Totals.Failed)
		if c.optional && sum == "0" {
			continue
		}
		columns = append(columns, number(c.title))
		for i, row := range r.Repositories {
			rows[i] = append(rows[i], c.cell(row.Counts, len(row.Failed)))
		}
		rows[total] = append(rows[total], sum)
	}
	p.table(0, columns, rows)
}

// checkColumn is a column of numbers.
type checkColumn struct {
	title    string
	optional bool
	cell     func(c check.Counts, failed int) string
}

func checkColumns() []checkColumn {
	count := func(of func(check.Counts) int) func(check.Counts, int) string {
		return func(c check.Counts, _ int) string { return strconv.Itoa(of(c)) }
	}
	return []checkColumn{
		{"COPY", false, count(func(c check.Counts) int { return c.Copy })},
		{"TAG", true, count(func(c check.Counts) int { return c.Tag })},
		{"UNCHANGED", false, count(func(c check.Counts) int { return c.Unchanged })},
		{"SKIPPED", true, count(func(c check.Counts) int { return c.Skipped })},
		{"WAITING", true, count(func(c check.Counts) int { return c.Waiting })},
		{"KEPT", true, count(func(c check.Counts) int { return c.Kept })},
		{"UNVERIFIED", true, count(func(c check.Counts) int { return c.Unverified })},
		{"SIGNED", true, count(func(c check.Counts) int { return c.Signed })},
		{"REFERRERS", true, count(func(c check.Counts) int { return c.Referrers })},
		{"FAILED", true, func(_ check.Counts, failed int) string { return strconv.Itoa(failed) }},
		{"PULLS", false, func(c check.Counts, _ int) string { return atLeast(c.Pulls, c.PullsAtLeast) }},
		{"BYTES", false, func(c check.Counts, _ int) string { return checkBytes(c) }},
	}
}

func checkBytes(c check.Counts) string {
	if c.Bytes == nil {
		return "unknown"
	}
	return marked(Size(*c.Bytes), c.BytesAtLeast)
}

// checkRegistries shows how long the run takes with the budgets of the source registries.
func checkRegistries(p *page, all []check.Registry) {
	if len(all) == 0 {
		return
	}
	p.line("")
	var rows [][]string
	for _, r := range all {
		free, takes := "-", "-"
		if r.Free != nil {
			free = strconv.Itoa(*r.Free)
		}
		if r.Seconds != nil {
			takes = takesText(*r.Seconds, r.PullsAtLeast)
		}
		rows = append(rows, []string{printable(r.Registry), budget(r.Limit, r.Window), string(r.Origin), free, atLeast(r.Pulls, r.PullsAtLeast), takes})
	}
	p.table(0, []column{names("REGISTRY"), text("BUDGET"), text("LIMIT FROM"), number("FREE"), number("PULLS"), number("TAKES")}, rows)
}

// takesText formats a duration, with a mark if it is a lower bound.
func takesText(seconds int, more bool) string {
	return marked(span(time.Duration(seconds)*time.Second), more)
}

// checkNames returns a function that names a row. If a repository has several destinations, the name
// includes the destination.
func checkNames(rows []check.Row) func(check.Row) string {
	times := map[reference.Repository]int{}
	for _, row := range rows {
		times[row.Repository]++
	}
	return func(row check.Row) string {
		if times[row.Repository] > 1 {
			return row.Repository.String() + " to " + row.Destination.String()
		}
		return row.Repository.String()
	}
}

func conclusion(r check.Report) string {
	in := Count(r.Totals.Repositories, "repository", "repositories")
	switch {
	case r.ToDo():
		copies := images(r.Totals.Copy)
		if n := r.Totals.Referrers; n > 0 {
			copies += ", " + Count(n, "referrer", "referrers")
		}
		return fmt.Sprintf("To copy: %s. To tag: %s. In %s.", copies, images(r.Totals.Tag), in)
	case r.Totals.Failed > 0:
		return fmt.Sprintf("Nothing to do in the checked part of %s.", in)
	default:
		return fmt.Sprintf("Nothing to do in %s.", in)
	}
}
