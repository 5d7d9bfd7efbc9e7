package display

import (
	"io"

	"github.com/osism/skopeo-worker/shared/change"
)

// Changes shows the tags that a run has changed. more is the number of changes that were not kept.
func Changes(w io.Writer, run string, changes []change.Change, more int, screen Screen) {
	p := page{screen: screen}
	defer p.to(w)
	if len(changes) == 0 {
		p.line("Run %s has changed no tag.", run)
		return
	}
	var rows [][]string
	counts := map[change.Kind]int{}
	for _, c := range changes {
		counts[c.Kind()]++
		from, to := brief(c.From.String()), brief(c.To.String())
		if c.Kind() == change.Kept {
			to = "not " + brief(c.Refused.String())
		}
		rows = append(rows, []string{string(c.Kind()), printable(c.Image()), from, to, Size(c.Bytes), moment(c.At)})
	}
	p.table(0, []column{text("CHANGE"), names("IMAGE"), text("FROM"), text("TO"), number("BYTES"), text("AT")}, rows)
	if more > 0 {
		p.line("and %d more", more)
	}
	p.line("")
	p.line("Run %s: %s.", run, list(known([]amount{
		{counts[change.New], "new"}, {counts[change.Moved], "moved"}, {counts[change.Kept], "kept"}, {counts[change.Vanished], "vanished"},
	})))
}

// brief returns the beginning of a digest, as people compare it, or "-" if there is none.
func brief(digest string) string {
	if digest == "" {
		return "-"
	}
	return digest[:min(len(digest), len("sha256:")+12)]
}
