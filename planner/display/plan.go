package display

import (
	"fmt"
	"io"
	"time"
)

// PlannedChunk is a chunk that would be published.
type PlannedChunk struct {
	Number   int
	Due      time.Time
	Registry string
	Entries  []string
}

// Plan shows the chunks of a plan, each with its entries, one to a line.
func Plan(w io.Writer, planned []PlannedChunk, now time.Time) {
	var p page
	defer p.to(w)
	if len(planned) == 0 {
		p.line("The plan is empty: there is no such chunk.")
		return
	}
	entries, last := 0, planned[0].Due
	p.table(func(t io.Writer) {
		_, _ = fmt.Fprintln(t, "CHUNK\tDUE\tREGISTRY\tENTRIES")
		for _, c := range planned {
			head := fmt.Sprintf("%d\t%s\t%s", c.Number, dueColumn(c.Due, now), c.Registry)
			for _, entry := range c.Entries {
				_, _ = fmt.Fprintf(t, "%s\t%s\n", head, entry)
				head = "\t\t"
			}
			entries += len(c.Entries)
			if c.Due.After(last) {
				last = c.Due
			}
		}
	})
	p.line("")
	p.line("%s in %s, the last due %s.", count(entries, "entry", "entries"), chunks(len(planned)), due(last, now))
}

func dueColumn(t, now time.Time) string {
	if t.After(now) {
		return momentAndRelative(t, now)
	}
	return "now"
}
