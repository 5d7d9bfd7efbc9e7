package display

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/osism/skopeo-worker/worker/prune"
)

// Prune shows the summary of a prune plan: how many tags it deletes, and which tags stay, with reasons.
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
		rows = append(rows, []string{printable(r.Repository.String()), strconv.Itoa(len(r.Tags)), strconv.Itoa(r.Recorded), Size(bytes)})
	}
	switch {
	case len(rows) == 0 && len(plan.Left) > 0:
		p.line("Nothing to delete.")
		return
	case len(rows) == 0:
		p.line("Nothing to delete: no tag has been dropped for %s or longer.", graceText(plan.Grace))
		return
	}
	p.table(0, []column{text("REPOSITORY"), number("DELETE"), number("OF"), number("BYTES")}, rows)
	p.line("")
	p.line("%d of %d mirrored tags would be deleted. This frees %s, which no other tag of their repositories uses.", plan.Tags, plan.Recorded, Size(plan.Bytes))
}

// graceText formats the grace period of a plan.
func graceText(grace string) string {
	if d, err := time.ParseDuration(grace); err == nil {
		return span(d)
	}
	return grace
}

// Pruning shows the state of the plan on the page, and the result of the last execution. Both are
// optional.
func Pruning(w io.Writer, r *prune.Review, last *prune.Last, now time.Time) {
	var p page
	defer p.to(w)
	if r != nil {
		p.line("")
		p.line("Prune plan of %s by %s: %s, %s.", momentAndRelative(r.Made, now), printable(r.By), Count(r.Tags, "tag", "tags"), standing(r))
	}
	if last == nil {
		return
	}
	if r == nil {
		p.line("")
	}
	p.line("Last pruned %s by %s: %s", momentAndRelative(last.At, now), printable(last.By), pruned(last.Outcome))
	if last.Why != "" {
		p.wrapped(0, "Not finished: "+printable(last.Why))
	}
}

func standing(r *prune.Review) string {
	switch {
	case r.UnderWay():
		return "being executed"
	case r.Finished:
		return "executed"
	case r.Tags == 0:
		return "nothing to delete"
	case r.Over != "":
		return "more than its caps permit"
	case r.Why != "":
		return "stopped; it can be confirmed again on the page"
	}
	return "to be confirmed on the page"
}

// Pruned shows the result of an execution.
func Pruned(w io.Writer, o prune.Outcome) {
	var p page
	defer p.to(w)
	p.line("%s", pruned(o))
	if o.Manifests > 0 {
		p.line("%s without a tag deleted.", Count(o.Manifests, "manifest", "manifests"))
	}
}

func pruned(o prune.Outcome) string {
	return fmt.Sprintf("%s deleted, %d skipped, %d already gone, %d failed.", Count(o.Deleted, "tag", "tags"), o.Skipped, o.Gone, o.Failed)
}
