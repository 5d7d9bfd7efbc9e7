package display

import (
	"io"
	"strconv"
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
	p.line("%s in %s, the last due %s.", count(entries, "entry", "entries"), chunks(len(planned)), due(last, now))
}

func dueColumn(t, now time.Time) string {
	if t.After(now) {
		return momentAndRelative(t, now)
	}
	return "now"
}
