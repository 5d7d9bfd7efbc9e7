package display

import (
	"fmt"
	"io"

	"github.com/osism/skopeo-worker/worker/check"
)

// Check shows what mirroring would do, by repository, and what could not be found
// out.
func Check(w io.Writer, r check.Report) {
	var p page
	defer p.to(w)
	if len(r.Repositories) == 0 {
		p.line("There is nothing to check.")
		return
	}
	name := checkNames(r.Repositories)
	p.table(func(t io.Writer) {
		_, _ = fmt.Fprintln(t, "REPOSITORY\tCOPY\tTAG\tUNCHANGED\tSKIPPED\tFAILED\tPULLS\tBYTES")
		for _, row := range r.Repositories {
			checkRow(t, printable(name(row)), row.Counts, len(row.Failed))
		}
		checkRow(t, "total", r.Totals.Counts, r.Totals.Failed)
	})
	if r.Totals.PullsAtLeast {
		p.line("+ at least: without a pull, not all that an index lists is known")
	}
	if r.Totals.Failed > 0 {
		p.line("")
		p.line("%d could not be checked:", r.Totals.Failed)
		for _, row := range r.Repositories {
			for _, f := range row.Failed {
				p.line("%*s%s:", imageIndent, "", printable(f.Image))
				p.wrapped(reasonIndent, f.Reason)
			}
		}
	}
	p.line("")
	p.line("%s", conclusion(r))
}

func checkRow(w io.Writer, name string, c check.Counts, failed int) {
	pulls, bytes := fmt.Sprint(c.Pulls), "unknown"
	if c.PullsAtLeast {
		pulls += "+"
	}
	if c.Bytes != nil {
		bytes = size(*c.Bytes)
	}
	_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", name, c.Copy, c.Tag, c.Unchanged, c.Skipped, failed, pulls, bytes)
}

// checkNames returns the names of rows: with the destination, where a repository
// goes to more than one.
func checkNames(rows []check.Row) func(check.Row) string {
	times := map[string]int{}
	for _, row := range rows {
		times[row.Repository]++
	}
	return func(row check.Row) string {
		if times[row.Repository] > 1 {
			return row.Repository + " to " + row.Destination
		}
		return row.Repository
	}
}

func conclusion(r check.Report) string {
	in := count(r.Totals.Repositories, "repository", "repositories")
	switch {
	case r.ToDo():
		return fmt.Sprintf("To copy: %s. To tag: %s. In %s.", images(r.Totals.Copy), images(r.Totals.Tag), in)
	case r.Totals.Failed > 0:
		return fmt.Sprintf("Nothing to do in what could be checked of %s.", in)
	default:
		return fmt.Sprintf("Nothing to do in %s.", in)
	}
}
