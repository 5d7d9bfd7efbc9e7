package web

import (
	"html/template"
	"net/http"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/planner/display"
	"github.com/osism/skopeo-worker/planner/overview"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/run"
)

const (
	runsPage   = 60
	chunksPage = 100
	// changesShown is how many changes the page of a run lists; planner changes lists all.
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

func runs(site *Site, p mirrorPage, r *http.Request) (view, error) {
	_, total, err := site.Overview.Runs(r.Context(), p.name, 0, 0)
	if err != nil {
		return view{}, err
	}
	v := runsView{Total: total}
	if v.paging, err = newPaging(r, total, runsPage); err != nil {
		return view{}, err
	}
	if v.Runs, _, err = site.Overview.Runs(r.Context(), p.name, v.from, runsPage); err != nil {
		return view{}, err
	}
	v.Usual = overview.Usual(v.Runs)
	v.Charts = charts(v.Runs, p.At)
	return view{Template: "runs", Title: "Runs", Data: v}, nil
}

// charts draws the durations and results of the plans among the runs, the oldest first.
func charts(runs []overview.Run, now time.Time) []chartView {
	plain := func(n int64) string { return number(int(n)) }
	measures := []struct {
		title string
		value func(overview.Run) int64
		text  func(int64) string
	}{
		{"Duration", func(r overview.Run) int64 { return int64(r.Took(now)) }, func(n int64) string { return span(time.Duration(n)) }},
		{"Images copied", func(r overview.Run) int64 { return int64(r.Status.Images.Copied) }, plain},
		{"Images failed", func(r overview.Run) int64 { return int64(r.Status.Images.Failed) }, plain},
		{"Bytes copied", func(r overview.Run) int64 { return r.Status.Bytes }, display.Size},
		{"Pulls", func(r overview.Run) int64 { return int64(r.Status.Pulls) }, plain},
	}
	var views []chartView
	for _, m := range measures {
		var columns []column
		var most int64
		for _, r := range slices.Backward(runs) {
			if r.IsWhole() {
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
	Changed []string // the number of each kind, as text
	Hidden  int      // changes that are not shown
	paging
}

func runPage(site *Site, p mirrorPage, r *http.Request) (view, error) {
	found, chunks, err := site.Overview.Run(r.Context(), p.name, r.PathValue("run"))
	if err != nil {
		return view{}, err
	}
	v := runView{Run: found, Took: found.Took(p.At), Running: running(found.Status, p.At), Copies: copiesView{byWorker(slices.Clone(found.Status.UnderWay)), p.At}}
	changes, more, err := site.Changes.List(r.Context(), p.name, found.ID)
	if err != nil {
		return view{}, err
	}
	v.count(changes, more)
	if v.paging, err = newPaging(r, len(chunks), chunksPage); err != nil {
		return view{}, err
	}
	v.Chunks = chunks[v.from:v.to]
	return view{Template: "run", Title: "Run " + found.ID, Live: !found.Status.Over(), Data: v}, nil
}

// count sets the numbers of changes, and the changes that are shown.
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
