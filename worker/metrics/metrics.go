// Package metrics tells Prometheus what a worker does, and how the fleet stands.
// docs/metrics.md lists all of it.
package metrics

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// namespace is that of every metric but Go's and the process's own.
const namespace = "skopeo_worker"

// The outcomes of a chunk's delivery.
const (
	ChunkDone        = "done"
	ChunkSnoozed     = "snoozed"     // what is left of it has a later time
	ChunkSplit       = "split"       // others take parts of it
	ChunkInterrupted = "interrupted" // the worker was told to stop; what is left is due now
	ChunkUnworkable  = "unworkable"  // recorded as a failure without a try
	ChunkDropped     = "dropped"     // its run was cancelled or superseded
	ChunkReturned    = "returned"    // the broker could not be told: it comes again
)

// Metrics are a worker's own; several workers are summed up. All methods are safe for
// concurrent use.
type Metrics struct {
	Registry *prometheus.Registry

	images   *prometheus.CounterVec
	pulls    *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	copies   *prometheus.HistogramVec
	chunks   prometheus.Histogram
	outcomes *prometheus.CounterVec
	requests *prometheus.CounterVec
	fleet    fleet
}

// New returns metrics in a registry of their own, beside Go's and the process's.
func New(version string) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	}
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		images:   counter("images_total", "Images by outcome: copied, tagged, unchanged, skipped, vanished, failed or dropped (with their run).", "registry", "outcome"),
		pulls:    counter("pulls_total", "Manifests pulled from source registries.", "registry"),
		bytes:    counter("copied_bytes_total", "Size of the content copied, as its manifests tell it.", "registry"),
		outcomes: counter("chunks_total", "Deliveries of chunks by outcome: done, snoozed, split, interrupted, unworkable, dropped or returned.", "outcome"),
		requests: counter("registry_requests_total", "Requests of our own to registries, by what they ask for and the status code of the answer (error: none came).", "registry", "kind", "code"),
		copies: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "copy_duration_seconds", Help: "Time a skopeo process took, by source registry.",
			Buckets: prometheus.ExponentialBuckets(0.1, 4, 8), // 0.1 s to 27 min
		}, []string{"registry"}),
		chunks: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "chunk_duration_seconds", Help: "Time a chunk took, from its delivery to its acknowledgement.",
			Buckets: prometheus.ExponentialBuckets(0.1, 4, 9), // 0.1 s to 2 h
		}),
	}
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: "build_info", Help: "Always 1; the label tells the version."}, []string{"version"})
	info.WithLabelValues(version).Set(1)
	for _, outcome := range []string{ChunkDone, ChunkSnoozed, ChunkSplit, ChunkInterrupted, ChunkUnworkable, ChunkDropped, ChunkReturned} {
		m.outcomes.WithLabelValues(outcome) // from 0 on, so that the first one is an increase
	}
	m.Registry.MustRegister(m.images, m.pulls, m.bytes, m.copies, m.chunks, m.outcomes, m.requests, info, &m.fleet,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Watch adds how the whole fleet stands. Until then, it is told as a broker that could
// not be asked.
func (m *Metrics) Watch(f *Fleet) { m.fleet.Store(f) }

// Images counts the outcome of n images from the source registry.
func (m *Metrics) Images(registry, outcome string, n int) {
	m.images.WithLabelValues(registry, outcome).Add(float64(n))
}

// Spent adds the pulls made at the source registry and the bytes copied. A chunk's
// sums can fall when it is tried again; counters never do.
func (m *Metrics) Spent(registry string, pulls int, bytes int64) {
	m.pulls.WithLabelValues(registry).Add(float64(max(0, pulls)))
	m.bytes.WithLabelValues(registry).Add(float64(max(0, bytes)))
}

// Copy tells how long a skopeo process took that copied from the registry.
func (m *Metrics) Copy(registry string, took time.Duration) {
	m.copies.WithLabelValues(registry).Observe(took.Seconds())
}

// Chunk tells how long a delivery took and what became of it.
func (m *Metrics) Chunk(took time.Duration, outcome string) {
	m.chunks.Observe(took.Seconds())
	m.outcomes.WithLabelValues(outcome).Inc()
}

// Request counts a request of our own; status 0 is one without an answer.
func (m *Metrics) Request(registry, kind string, status int) {
	code := "error"
	if status > 0 {
		code = strconv.Itoa(status)
	}
	m.requests.WithLabelValues(registry, kind, code).Inc()
}
