package metrics

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/osism/skopeo-worker/shared/run"
)

// descriptions describe all metrics of the fleet.
var descriptions []*prometheus.Desc

func describe(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
	descriptions = append(descriptions, d)
	return d
}

// The metrics of the fleet: every worker exports the same values.
var (
	brokerUp     = describe("broker_up", "1 if the worker could query the broker; if 0, the other metrics of the fleet are missing.")
	budgetLimit  = describe("budget_limit_pulls", "Pulls that the registry allows in a window.", "registry")
	budgetSpent  = describe("budget_spent_pulls", "Pulls of the window that are spent.", "registry")
	budgetFree   = describe("budget_free_pulls", "Pulls of the window that are left.", "registry")
	budgetWindow = describe("budget_window_seconds", "Length of the window.", "registry")
	closed       = describe("registry_closed", "1 while the fleet sends the registry no requests because it limits them or is away.", "registry")
	awaySince    = describe("registry_away_since_timestamp_seconds", "When the registry went away; absent if it is not away.", "registry")
	nextSlot     = describe("registry_next_slot_timestamp_seconds", "When the next pull is allowed; absent if one is allowed now.", "registry")
	queued       = describe("queued_chunks", "Chunks by state: waiting (planned for later), snoozed, due, running.", "state")
	snoozedFor   = describe("registry_snoozed_chunks", "Chunks of the source registry that are requeued for later.", "registry")
	oldestDue    = describe("oldest_due_chunk_timestamp_seconds", "When the oldest chunk that no worker has became due; absent if none is due.")
	failedNow    = describe("failed_images", "Failed images of the list, which can be republished.", "mirror")
	failedLeft   = describe("failed_images_left_list", "Failed images that have left the list.", "mirror")
	unreadable   = describe("unreadable_records", "Messages among the failure records that cannot be read.")
	lastRun      = describe("last_run_timestamp_seconds", "When the newest run began.", "mirror")
	lastSuccess  = describe("last_success_timestamp_seconds", "When the last complete run without failures ended; absent if there was none.", "mirror")
	runImages    = describe("run_images", "Images of the newest run by outcome.", "mirror", "outcome")
	runPulls     = describe("run_pulls", "Manifests pulled by the newest run.", "mirror")
	runState     = describe("run_state", "1 for the state that the newest run is in, 0 for the others.", "mirror", "state")
)

var runStates = []string{
	run.StateWaiting, run.StateRunning, run.StateSnoozed, run.StateDone, run.StateFailed, run.StateCancelled, run.StateSuperseded, run.StateLost,
}

// fleet collects the metrics of the fleet once the broker is connected.
type fleet struct{ atomic.Pointer[Fleet] }

// Describe implements prometheus.Collector.
func (f *fleet) Describe(out chan<- *prometheus.Desc) {
	for _, d := range descriptions {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (f *fleet) Collect(out chan<- prometheus.Metric) {
	if known := f.Load(); known != nil {
		known.collect(out)
		return
	}
	gauge(out, brokerUp, 0)
}

func (f *Fleet) collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	p, err := f.look(ctx)
	if err != nil {
		f.log.Debug("metrics of the fleet are missing", "error", err)
		gauge(out, brokerUp, 0)
		return
	}
	gauge(out, brokerUp, 1)
	for _, r := range p.Registries {
		collectRegistry(out, r, f.now())
		delete(p.Seen, r.Registry)
	}
	for registry := range p.Seen {
		gauge(out, closed, 0, registry)
	}
	for state, n := range map[string]int{"waiting": p.Waiting, "snoozed": p.Snoozed, "due": p.Due, "running": p.Running} {
		gauge(out, queued, float64(n), state)
	}
	for registry, n := range p.SnoozedFor {
		gauge(out, snoozedFor, float64(n), registry)
	}
	if p.OldestDue != nil {
		moment(out, oldestDue, *p.OldestDue)
	}
	gauge(out, unreadable, float64(p.Unreadable))
	for name, m := range p.Mirrors {
		collectMirror(out, name, m)
	}
	for name, p := range p.Pruned {
		collectPruned(out, name, p)
	}
}

func collectRegistry(out chan<- prometheus.Metric, r run.Registry, now time.Time) {
	if r.Limit > 0 {
		gauge(out, budgetLimit, float64(r.Limit), r.Registry)
		gauge(out, budgetSpent, float64(r.Spent), r.Registry)
		gauge(out, budgetFree, float64(max(0, r.Limit-r.Spent)), r.Registry)
		if window, err := time.ParseDuration(r.Window); err == nil {
			gauge(out, budgetWindow, window.Seconds(), r.Registry)
		}
	}
	gauge(out, closed, flag(r.ClosedSince != nil || r.ClosedUntil != nil && r.ClosedUntil.After(now)), r.Registry)
	if r.ClosedSince != nil {
		moment(out, awaySince, *r.ClosedSince, r.Registry)
	}
	if r.NextSlot != nil && r.NextSlot.After(now) {
		moment(out, nextSlot, *r.NextSlot, r.Registry)
	}
}

func collectMirror(out chan<- prometheus.Metric, name string, m mirror) {
	gauge(out, failedNow, float64(m.Failed), name)
	gauge(out, failedLeft, float64(m.LeftList), name)
	if !m.LastSuccess.IsZero() {
		moment(out, lastSuccess, m.LastSuccess, name)
	}
	s := m.Newest
	if s.Run == "" { // the name has only republishes
		return
	}
	moment(out, lastRun, s.Started, name)
	gauge(out, runPulls, float64(s.Pulls), name)
	for _, outcome := range run.Outcomes {
		gauge(out, runImages, float64(*s.Images.Of(outcome)), name, string(outcome))
	}
	for _, state := range runStates {
		gauge(out, runState, flag(s.State == state), name, state)
	}
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, value float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func moment(out chan<- prometheus.Metric, d *prometheus.Desc, at time.Time, labels ...string) {
	gauge(out, d, float64(at.UnixMilli())/1000, labels...)
}

func flag(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
