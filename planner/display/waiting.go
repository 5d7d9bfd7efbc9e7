package display

import (
	"io"
	"time"

	"github.com/osism/skopeo-worker/planner/waiting"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/release"
)

// Waiting shows the waiting tags, and the releases.
func Waiting(w io.Writer, tags []waiting.Tag, releases []release.Release, now time.Time) {
	var p page
	defer p.to(w)
	if len(tags) == 0 {
		p.line("No image waits for its minimum age.")
	} else {
		var rows [][]string
		for _, t := range tags {
			rows = append(rows, []string{printable(t.Image()), brief(t.Digest.String()), brief(t.At.String()), dueColumn(t.Until, now)})
		}
		p.table(0, []column{text("WAITS"), text("DIGEST"), text("AT THE DESTINATION"), text("UNTIL")}, rows)
	}
	if len(releases) == 0 {
		return
	}
	p.line("")
	var rows [][]string
	for _, r := range releases {
		rows = append(rows, []string{printable(reference.Reference{Repository: r.Repository, Tag: r.Tag}.String()), brief(r.Digest.String()), printable(r.By), moment(r.At), dueColumn(r.At.Add(release.Keep), now)})
	}
	p.table(0, []column{text("RELEASED"), text("DIGEST"), text("BY"), text("AT"), text("UNTIL")}, rows)
}
