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
		p.line("Cancelled run %s: there was nothing to drop.", id)
	} else {
		p.line("Cancelled run %s: %s with %s dropped.", id, chunks(d.Chunks), images(d.Images))
	}
	if d.UnderWay > 0 {
		p.line("A worker has %s, and may finish it.", chunks(d.UnderWay))
	}
	if d.Unread > 0 {
		p.line("A newer worker drops %s that this version cannot read.", count(d.Unread, "message", "messages"))
	}
}
