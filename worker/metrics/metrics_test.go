package metrics

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// full returns a worker with a value for every metric.
func full(t *testing.T) *Metrics {
	t.Helper()
	s := newStand(t, brokertest.Embedded(t))
	busy(t, s)
	_, m := s.fleet(t)
	m.Images(registry, "copied", 2)
	m.Spent(registry, 3, 2048)
	m.Spent(registry, -1, -1) // because a counter must not decrease
	m.Copy(registry, time.Second)
	m.Chunk(time.Second, ChunkDone)
	m.Request(registry, "pull", 200)
	m.Request(registry, "pull", 0)
	m.Verified(registry, "rejected")
	return m
}

func TestMetrics(t *testing.T) {
	m := full(t)
	require.NoError(t, testutil.GatherAndCompare(m.Registry, strings.NewReader(`
# HELP skopeo_worker_build_info Always 1; the label holds the version.
# TYPE skopeo_worker_build_info gauge
skopeo_worker_build_info{version="test"} 1
# HELP skopeo_worker_chunks_total Deliveries of chunks by outcome: done, snoozed, split, interrupted, unworkable, dropped or returned.
# TYPE skopeo_worker_chunks_total counter
skopeo_worker_chunks_total{outcome="done"} 1
skopeo_worker_chunks_total{outcome="dropped"} 0
skopeo_worker_chunks_total{outcome="interrupted"} 0
skopeo_worker_chunks_total{outcome="returned"} 0
skopeo_worker_chunks_total{outcome="snoozed"} 0
skopeo_worker_chunks_total{outcome="split"} 0
skopeo_worker_chunks_total{outcome="unworkable"} 0
# HELP skopeo_worker_copied_bytes_total Size of the copied content, from its manifests.
# TYPE skopeo_worker_copied_bytes_total counter
skopeo_worker_copied_bytes_total{registry="docker.io"} 2048
# HELP skopeo_worker_images_total Images by outcome: copied, tagged, unchanged, skipped, waiting, vanished, kept, failed or dropped (with their run).
# TYPE skopeo_worker_images_total counter
skopeo_worker_images_total{outcome="copied",registry="docker.io"} 2
# HELP skopeo_worker_pulls_total Manifests pulled from source registries.
# TYPE skopeo_worker_pulls_total counter
skopeo_worker_pulls_total{registry="docker.io"} 3
# HELP skopeo_worker_registry_requests_total Requests to registries that the worker itself sends, by kind and status code (error: no answer).
# TYPE skopeo_worker_registry_requests_total counter
skopeo_worker_registry_requests_total{code="200",kind="pull",registry="docker.io"} 1
skopeo_worker_registry_requests_total{code="error",kind="pull",registry="docker.io"} 1
# HELP skopeo_worker_verified_images_total Images checked against SIGNATURE_POLICY by source registry and result: accepted, rejected or unknown (signatures could not be read).
# TYPE skopeo_worker_verified_images_total counter
skopeo_worker_verified_images_total{registry="docker.io",result="rejected"} 1
`), "skopeo_worker_build_info", "skopeo_worker_chunks_total", "skopeo_worker_copied_bytes_total", "skopeo_worker_images_total",
		"skopeo_worker_pulls_total", "skopeo_worker_registry_requests_total", "skopeo_worker_verified_images_total"))
	problems, err := testutil.GatherAndLint(m.Registry)
	require.NoError(t, err)
	require.Empty(t, problems)
}

// row matches a row of the tables in docs/metrics.md.
var row = regexp.MustCompile(`(?m)^\| (skopeo_worker_\w+) \| (\w+) \| ([a-z, ]*)\|`)

// TestDocs: docs/metrics.md lists exactly the metrics that are served, with type and labels.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	require.NoError(t, err)
	documented := map[string]string{}
	for _, found := range row.FindAllStringSubmatch(string(text), -1) {
		labels := strings.Split(strings.TrimSpace(found[3]), ", ")
		slices.Sort(labels)
		documented[found[1]] = strings.Join(append([]string{found[2]}, labels...), " ")
	}
	families, err := full(t).Registry.Gather()
	require.NoError(t, err)
	served := map[string]string{}
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), namespace) {
			continue
		}
		words := []string{strings.ToLower(family.GetType().String())}
		for _, l := range family.GetMetric()[0].GetLabel() {
			words = append(words, l.GetName())
		}
		if len(words) == 1 {
			words = append(words, "")
		}
		served[family.GetName()] = strings.Join(words, " ")
	}
	require.Equal(t, served, documented)
	for _, name := range regexp.MustCompile(namespace+`_\w+`).FindAllString(string(text), -1) {
		require.Contains(t, documented, strings.TrimSuffix(name, "_bucket"), "an example")
	}
}
