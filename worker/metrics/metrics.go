// Package metrics exports the activity of a worker and the state of the fleet to Prometheus.
// docs/metrics.md lists all metrics.
package metrics

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// namespace begins the name of every metric, except those of Go and of the process.
const namespace = "skopeo_worker"

// The outcomes of the delivery of a chunk.
const (
	ChunkDone        = "done"
	ChunkSnoozed     = "snoozed"     // the rest is requeued for later
	ChunkSplit       = "split"       // other workers take parts of it
	ChunkInterrupted = "interrupted" // the worker was stopped; the rest is due now
	ChunkUnworkable  = "unworkable"  // recorded as a failure without a try
	ChunkDropped     = "dropped"     // its run was cancelled or superseded
	ChunkReturned    = "returned"    // the broker did not accept the result; the chunk is delivered again
)

// Metrics count the activity of a worker; queries add up those of several workers. All methods are
// safe for concurrent use.
type Metrics struct {
	Registry *prometheus.Registry

	images   *prometheus.CounterVec
	pulls    *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	copies   *prometheus.HistogramVec
	chunks   prometheus.Histogram
	outcomes *prometheus.CounterVec
	requests *prometheus.CounterVec
	verified *prometheus.CounterVec
	fleet    fleet
}

// New returns metrics, in a registry that has Go's and the process's metrics, too.
func New(version string) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	}
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		images:   counter("images_total", "Images by outcome: copied, tagged, unchanged, skipped, waiting, vanished, kept, failed or dropped (with their run).", "registry", "outcome"),
		pulls:    counter("pulls_total", "Manifests pulled from source registries.", "registry"),
		bytes:    counter("copied_bytes_total", "Size of the copied content, from its manifests.", "registry"),
		outcomes: counter("chunks_total", "Deliveries of chunks by outcome: done, snoozed, split, interrupted, unworkable, dropped or returned.", "outcome"),
		requests: counter("registry_requests_total", "Requests to registries that the worker itself sends, by kind and status code (error: no answer).", "registry", "kind", "code"),
		verified: counter("verified_images_total", "Images checked against SIGNATURE_POLICY by source registry and result: accepted, rejected or unknown (signatures could not be read).", "registry", "result"),
		copies: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "copy_duration_seconds", Help: "Time to copy an image, without its waits for budgets, by source registry.",
			Buckets: prometheus.ExponentialBuckets(0.1, 4, 8), // 0.1 s to 27 min
		}, []string{"registry"}),
		chunks: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "chunk_duration_seconds", Help: "Time from the delivery of a chunk to its acknowledgement.",
			Buckets: prometheus.ExponentialBuckets(0.1, 4, 9), // 0.1 s to 2 h
		}),
	}
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: "build_info", Help: "Always 1; the label holds the version."}, []string{"version"})
	info.WithLabelValues(version).Set(1)
	for _, outcome := range []string{ChunkDone, ChunkSnoozed, ChunkSplit, ChunkInterrupted, ChunkUnworkable, ChunkDropped, ChunkReturned} {
		m.outcomes.WithLabelValues(outcome) // begins at 0, so that the first delivery is an increase
	}
	m.Registry.MustRegister(m.images, m.pulls, m.bytes, m.copies, m.chunks, m.outcomes, m.requests, m.verified, info, &m.fleet,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Watch adds the metrics of the fleet. Before, broker_up is 0.
func (m *Metrics) Watch(f *Fleet) { m.fleet.Store(f) }

// Images counts n images of a source registry with an outcome.
func (m *Metrics) Images(registry, outcome string, n int) {
	m.images.WithLabelValues(registry, outcome).Add(float64(n))
}

// Spent adds pulls from a source registry and copied bytes. It ignores negative numbers: a chunk's
// sums can fall when it is retried, but a counter cannot.
func (m *Metrics) Spent(registry string, pulls int, bytes int64) {
	m.pulls.WithLabelValues(registry).Add(float64(max(0, pulls)))
	m.bytes.WithLabelValues(registry).Add(float64(max(0, bytes)))
}

// Copy records how long the copy of an image from a registry took, without its waits.
func (m *Metrics) Copy(registry string, took time.Duration) {
	m.copies.WithLabelValues(registry).Observe(took.Seconds())
}

// Chunk records how long a delivery took and its outcome.
func (m *Metrics) Chunk(took time.Duration, outcome string) {
	m.chunks.Observe(took.Seconds())
	m.outcomes.WithLabelValues(outcome).Inc()
}

// Request counts a request of the worker; status 0 means that no answer came.
func (m *Metrics) Request(registry, kind string, status int) {
	code := "error"
	if status > 0 {
		code = strconv.Itoa(status)
	}
	m.requests.WithLabelValues(registry, kind, code).Inc()
}

// Verified counts an image that was checked against SIGNATURE_POLICY.
func (m *Metrics) Verified(registry, result string) {
	m.verified.WithLabelValues(registry, result).Inc()
}
