package display

import (
	"io"

	"github.com/osism/skopeo-worker/planner/plan"
)

// Cancelled shows what cancelling a run has dropped.
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
		p.line("This version cannot read %s; a newer worker drops them.", count(d.Unread, "message", "messages"))
	}
}
