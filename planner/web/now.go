package web

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/planner/overview"
	"github.com/osism/skopeo-worker/shared/run"
)

// nowView is the page Now.
type nowView struct {
	overview.Overview
	Rows     []mirrorRow
	Copies   copiesView
	Schedule Schedule
	Unsent   []string
}

// mirrorRow is a mirror with its current runs.
type mirrorRow struct {
	overview.Mirror
	Own     bool
	Running []runningRow
}

// runningRow is a run that is not over.
type runningRow struct {
	run.Status
	Rate int64         // sum of its copies, in bytes per second
	Left time.Duration // estimated time until it is done; 0: unknown
}

// copiesView lists the copies under way at a time.
type copiesView struct {
	Workers []workerRow
	At      time.Time
}

// workerRow is a worker with its copies.
type workerRow struct {
	Worker string
	Rate   int64
	Copies []run.Copy
}

func now(site *Site, r *http.Request) (view, error) {
	p, err := pageAbout(r.Context(), site, site.Mirror)
	if err != nil {
		return view{}, err
	}
	v := nowView{Overview: p.Overview, Schedule: site.Schedule(), Unsent: site.Unsent()}
	var copies []run.Copy
	for _, m := range p.Mirrors {
		row := mirrorRow{Mirror: m, Own: m.Name == site.Mirror}
		for _, status := range m.Current {
			row.Running = append(row.Running, running(status, p.At))
			copies = append(copies, status.UnderWay...)
		}
		v.Rows = append(v.Rows, row)
	}
	v.Copies = copiesView{byWorker(copies), p.At}
	return p.view(view{Template: "now", Title: "Now", Live: true, Data: v}), nil
}

// paceFrom is how many chunks must be done before their pace counts.
const paceFrom = 3

func running(s run.Status, now time.Time) runningRow {
	row := runningRow{Status: s}
	for _, c := range s.UnderWay {
		row.Rate += c.Rate
	}
	if left := s.Chunks.Total - s.Chunks.Done; s.Chunks.Done >= paceFrom && left > 0 {
		row.Left = now.Sub(s.Started) / time.Duration(s.Chunks.Done) * time.Duration(left)
	}
	if s.EstimatedDone != nil {
		row.Left = max(row.Left, s.EstimatedDone.Sub(now))
	}
	return row
}

// byWorker groups copies by their worker, sorted by name.
func byWorker(copies []run.Copy) []workerRow {
	var rows []workerRow
	slices.SortStableFunc(copies, func(a, b run.Copy) int { return cmp.Compare(a.Worker, b.Worker) })
	for _, c := range copies {
		if len(rows) == 0 || rows[len(rows)-1].Worker != c.Worker {
			rows = append(rows, workerRow{Worker: c.Worker})
		}
		last := &rows[len(rows)-1]
		last.Rate += c.Rate
		last.Copies = append(last.Copies, c)
	}
	return rows
}

// RegistryState returns the state of a registry as a word.
func (nowView) RegistryState(r run.Registry, now time.Time) string {
	switch {
	case r.ClosedSince != nil:
		return "away"
	case r.ClosedUntil != nil && r.ClosedUntil.After(now):
		return "closed"
	case r.NextSlot != nil && r.NextSlot.After(now):
		return "spent"
	}
	return "open"
}
