package web

import (
	"html/template"
	"net/http"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/planner/overview"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/run"
)

const (
	runsPage   = 60
	chunksPage = 100
	// changesShown is how many changes the page of a run has; planner changes has all.
	changesShown = 200
)

// runsView is the page Runs.
type runsView struct {
	Runs   []overview.Run
	Usual  time.Duration
	Charts []chartView
	Total  int
	paging
}

type chartView struct {
	Title, Most string
	Chart       template.HTML
}

func (*Server) runs(site *Site, r *http.Request) (view, error) {
	p, err := pageOf(site, r)
	if err != nil {
		return view{}, err
	}
	_, total, err := site.Overview.Runs(r.Context(), p.mirror, 0, 0)
	if err != nil {
		return view{}, err
	}
	v := runsView{Total: total}
	if v.paging, err = newPaging(r, total, runsPage); err != nil {
		return view{}, err
	}
	if v.Runs, _, err = site.Overview.Runs(r.Context(), p.mirror, v.from, runsPage); err != nil {
		return view{}, err
	}
	v.Usual = overview.Usual(v.Runs)
	v.Charts = charts(v.Runs, p.At)
	return p.view(view{Template: "runs", Title: "Runs", Data: v})
}

// charts draw what the plans among the runs took and did, the oldest first.
func charts(runs []overview.Run, now time.Time) []chartView {
	measures := []struct {
		title string
		value func(overview.Run) int64
		text  func(int64) string
	}{
		{"Duration", func(r overview.Run) int64 { return int64(r.Took(now)) }, func(n int64) string { return span(time.Duration(n)) }},
		{"Images copied", func(r overview.Run) int64 { return int64(r.Status.Images.Copied) }, func(n int64) string { return number(int(n)) }},
		{"Images failed", func(r overview.Run) int64 { return int64(r.Status.Images.Failed) }, func(n int64) string { return number(int(n)) }},
		{"Bytes copied", func(r overview.Run) int64 { return r.Status.Bytes }, size},
		{"Pulls", func(r overview.Run) int64 { return int64(r.Status.Pulls) }, func(n int64) string { return number(int(n)) }},
	}
	var views []chartView
	for _, m := range measures {
		var columns []column
		var most int64
		for _, r := range slices.Backward(runs) {
			if r.Kind == run.KindPlan {
				columns = append(columns, column{m.value(r), r.Status.State == run.StateFailed || r.Status.State == run.StateLost})
				most = max(most, m.value(r))
			}
		}
		if len(columns) > 1 {
			views = append(views, chartView{m.title, m.text(most), chart(columns)})
		}
	}
	return views
}

// runView is the page of a run.
type runView struct {
	overview.Run
	Took    time.Duration
	Chunks  []overview.Chunk
	Running runningRow
	Copies  copiesView
	Changes []change.Change
	Changed []string // how many of each kind
	Hidden  int      // changes
	paging
}

func (*Server) run(site *Site, r *http.Request) (view, error) {
	p, err := pageOf(site, r)
	if err != nil {
		return view{}, err
	}
	found, chunks, err := site.Overview.Run(r.Context(), p.mirror, r.PathValue("run"))
	if err != nil {
		return view{}, err
	}
	v := runView{Run: found, Took: found.Took(p.At), Running: running(found.Status, p.At), Copies: copiesView{byWorker(slices.Clone(found.Status.UnderWay)), p.At}}
	changes, more, err := site.Changes.List(r.Context(), p.mirror, found.ID)
	if err != nil {
		return view{}, err
	}
	v.count(changes, more)
	if v.paging, err = newPaging(r, len(chunks), chunksPage); err != nil {
		return view{}, err
	}
	v.Chunks = chunks[v.from:v.to]
	return p.view(view{Template: "run", Title: "Run " + found.ID, Live: !found.Status.Over(), Data: v})
}

// count counts changes, and shows some.
func (v *runView) count(changes []change.Change, more int) {
	counts := map[change.Kind]int{}
	for _, c := range changes {
		counts[c.Kind()]++
	}
	for _, kind := range []change.Kind{change.New, change.Moved, change.Kept, change.Vanished} {
		if counts[kind] > 0 {
			v.Changed = append(v.Changed, number(counts[kind])+" "+string(kind))
		}
	}
	v.Changes = changes[:min(len(changes), changesShown)]
	v.Hidden = len(changes) - len(v.Changes) + more
}
