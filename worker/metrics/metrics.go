// Package metrics counts what a worker does, for Prometheus.
package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics are a worker's.
type Metrics struct {
	Registry *prometheus.Registry

	images *prometheus.CounterVec
	pulls  prometheus.Counter
	bytes  prometheus.Counter
	chunks prometheus.Histogram
}

// New returns metrics that count from zero.
func New() *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		images: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skopeo_worker_images_total", Help: "Images by outcome: copied, tagged, unchanged, skipped or failed.",
		}, []string{"registry", "outcome"}),
		pulls: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "skopeo_worker_pulls_total", Help: "Manifests pulled from source registries.",
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "skopeo_worker_copied_bytes_total", Help: "Size of the content copied, as its manifests tell it.",
		}),
		chunks: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "skopeo_worker_chunk_duration_seconds", Help: "Time a chunk took, from its delivery to its acknowledgement.",
			Buckets: prometheus.ExponentialBuckets(0.1, 4, 9), // 0.1 s to 2 h
		}),
	}
	m.Registry.MustRegister(m.images, m.pulls, m.bytes, m.chunks,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Image counts an image's outcome.
func (m *Metrics) Image(registry, outcome string) {
	m.images.WithLabelValues(registry, outcome).Inc()
}

// Spent counts pulls and bytes.
func (m *Metrics) Spent(pulls int, bytes int64) {
	m.pulls.Add(float64(max(0, pulls)))
	m.bytes.Add(float64(max(0, bytes)))
}

// Chunk counts a chunk that was worked off.
func (m *Metrics) Chunk(took time.Duration) { m.chunks.Observe(took.Seconds()) }
