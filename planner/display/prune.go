package display

import (
	"io"
	"strconv"

	"github.com/osism/skopeo-worker/worker/prune"
)

// Prune sums up a plan of what is to be deleted, with what stays and why.
func Prune(w io.Writer, plan prune.Plan) {
	var p page
	defer p.to(w)
	for _, l := range plan.Left {
		name := l.Repository.String()
		if !l.Tag.IsZero() {
			name += ":" + l.Tag.String()
		}
		p.line("stays: %s: %s", printable(name), printable(l.Why))
	}
	var rows [][]string
	for _, r := range plan.Repositories {
		var bytes int64
		for _, t := range r.Tags {
			bytes += t.Bytes
		}
		rows = append(rows, []string{printable(r.Repository.String()), strconv.Itoa(len(r.Tags)), strconv.Itoa(r.Recorded), size(bytes)})
	}
	if len(rows) == 0 {
		p.line("Nothing to delete: no tag has been dropped for %s or longer.", plan.Grace)
		return
	}
	p.table(0, []column{text("REPOSITORY"), number("DELETE"), number("OF"), number("BYTES")}, rows)
	p.line("")
	p.line("%d of %d mirrored tags would be deleted, with %s that nothing else in their repositories needs.", plan.Tags, plan.Recorded, size(plan.Bytes))
}

// Pruned sums up what became of a plan.
func Pruned(w io.Writer, o prune.Outcome) {
	var p page
	defer p.to(w)
	p.line("%s deleted, %d skipped, %d gone before, %d failed.", count(o.Deleted, "tag", "tags"), o.Skipped, o.Gone, o.Failed)
	if o.Manifests > 0 {
		p.line("%s without a tag deleted.", count(o.Manifests, "manifest", "manifests"))
	}
}
