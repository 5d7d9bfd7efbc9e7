package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// site is a source and a destination that every program gets alike.
type site struct {
	source, destination *registrytest.Registry
	repositories        []string
}

// latency of each request at the source: that of a registry on the same continent.
const latency = 20 * time.Millisecond

// newSite has a Quay as its source, as most of what our users mirror has.
func newSite(b *testing.B) *site {
	b.Helper()
	return &site{source: registrytest.New(b, registrytest.WithLatency(latency), registrytest.WithQuayAPI(registrytest.BulkAPI{})), destination: registrytest.New(b)}
}

// fill pushes repositories of 7 tags and 4 digests, for two platforms.
func (s *site) fill(b *testing.B, repositories int) {
	b.Helper()
	for i := range repositories {
		repository := fmt.Sprintf("osism/repository%d", i)
		for t := range 7 {
			_, err := s.source.PushIndex(repository, fmt.Sprintf("1.%d", t),
				registrytest.MultiPlatform(fmt.Sprintf("%d-%d", i, t/2), "linux/amd64", "linux/arm64"))
			require.NoError(b, err)
		}
		s.repositories = append(s.repositories, repository)
	}
}

// clear gives the next program an empty destination.
func (s *site) clear(b *testing.B) {
	b.Helper()
	s.destination = registrytest.New(b)
	s.source.ResetRequests()
}

// ours runs planner mirror with this COPY_ENGINE.
func (s *site) ours(b *testing.B, engine, data string) used {
	b.Helper()
	var list strings.Builder
	list.WriteString("containers:\n")
	for _, r := range s.repositories {
		fmt.Fprintf(&list, "  - %s/%s\n", s.source.Host(), r)
	}
	path := filepath.Join(data, "list.yml")
	require.NoError(b, os.WriteFile(path, []byte(list.String()), 0o600))
	return execute(b, []string{
		"NATS_URL=", "DATA_DIR=" + data, "MIRROR_SOURCE_URL=" + path, "MIRROR_DEST_URL=" + s.destination.Host() + "/mirror", "CHUNK_SIZE=0", "COPY_ENGINE=" + engine,
		"INSECURE_REGISTRIES=" + s.source.Host() + "," + s.destination.Host(), "QUAY_HOSTS=" + s.source.Host(), "LOG_LEVEL=error",
	}, "planner", "mirror")
}

// regsync runs the rival, with so many repositories and tags at once; 0: its default.
func (s *site) regsync(b *testing.B, parallel int) used {
	b.Helper()
	var c strings.Builder
	fmt.Fprintf(&c, "version: 1\ncreds:\n")
	for _, r := range []*registrytest.Registry{s.source, s.destination} {
		fmt.Fprintf(&c, "  - registry: %s\n    tls: disabled\n", r.Host())
		if parallel > 0 {
			fmt.Fprintf(&c, "    reqConcurrent: %d\n", parallel)
		}
	}
	if parallel > 0 {
		fmt.Fprintf(&c, "defaults:\n  parallel: %d\n", parallel)
	}
	c.WriteString("sync:\n")
	for _, r := range s.repositories {
		fmt.Fprintf(&c, "  - source: %s/%s\n    target: %s/mirror/%s\n    type: repository\n", s.source.Host(), r, s.destination.Host(), r)
	}
	return execute(b, nil, "regsync", "once", "-c", write(b, "regsync.yml", c.String()))
}

func (s *site) skopeoSync(b *testing.B) used {
	b.Helper()
	var c strings.Builder
	fmt.Fprintf(&c, "%s:\n  tls-verify: false\n  images:\n", s.source.Host())
	for _, r := range s.repositories {
		fmt.Fprintf(&c, "    %s: []\n", r)
	}
	return execute(b, nil, "skopeo", "sync", "--all", "--dest-tls-verify=false", "--src", "yaml", "--dest", "docker",
		write(b, "skopeo.yml", c.String()), s.destination.Host()+"/mirror")
}

// requests counts what the source was asked since the last reset.
func (s *site) requests() float64 { return float64(s.source.Count(registrytest.Any)) }

// outcome is what a run took, of this machine and of the source.
type outcome struct {
	used
	requests float64
}

// BenchmarkMirror mirrors a catalogue to an empty destination, and then again,
// when nothing has changed, with either engine. Ratios are those of a rival to the builtin
// engine. Concurrency is everyone's default, and 8 for "tuned".
func BenchmarkMirror(b *testing.B) {
	const repositories, tuned = 40, 8
	for b.Loop() {
		s := newSite(b)
		s.fill(b, repositories)
		s.source.ResetRequests()
		measure := func(name string, run func() used) (cold, nothing outcome) {
			s.clear(b)
			cold = outcome{run(), s.requests()}
			s.source.ResetRequests()
			nothing = outcome{run(), s.requests()}
			for which, o := range map[string]outcome{"-cold": cold, "-noop": nothing} {
				b.ReportMetric(o.time.Seconds(), name+which+"-s")
				b.ReportMetric(o.processor.Seconds(), name+which+"-cpu-s")
				b.ReportMetric(o.requests, name+which+"-requests")
			}
			return cold, nothing
		}
		data := b.TempDir()
		measure("skopeo", func() used { return s.ours(b, "skopeo", data) })
		data = b.TempDir()
		cold, nothing := measure("builtin", func() used { return s.ours(b, "builtin", data) })
		rivals := []struct {
			name string
			run  func() used
		}{
			{"regsync", func() used { return s.regsync(b, 0) }},
			{"regsync-tuned", func() used { return s.regsync(b, tuned) }},
			{"skopeo-sync", func() used { return s.skopeoSync(b) }},
		}
		for _, rival := range rivals {
			c, n := measure(rival.name, rival.run)
			b.ReportMetric(c.time.Seconds()/cold.time.Seconds(), rival.name+"-cold-ratio")
			b.ReportMetric(c.processor.Seconds()/cold.processor.Seconds(), rival.name+"-cold-cpu-ratio")
			b.ReportMetric(n.time.Seconds()/nothing.time.Seconds(), rival.name+"-noop-ratio")
			b.ReportMetric(n.requests/nothing.requests, rival.name+"-noop-requests-ratio")
		}
	}
}

// BenchmarkManyTags mirrors a repository of 50,000 tags that is there already.
func BenchmarkManyTags(b *testing.B) {
	for b.Loop() {
		s := &site{source: registrytest.New(b), destination: registrytest.New(b), repositories: []string{"many/tags"}}
		many := registrytest.Synthetic{Tags: registrytest.Numbered("1.%d", 50_000)}
		require.NoError(b, s.source.AddSynthetic("many/tags", many))
		require.NoError(b, s.destination.AddSynthetic("mirror/many/tags", many))
		ours := s.ours(b, "builtin", b.TempDir())
		b.ReportMetric(ours.memory, "MB")
		b.ReportMetric(ours.time.Seconds(), "s")
		rival := s.regsync(b, 0)
		b.ReportMetric(rival.memory, "regsync-MB")
		b.ReportMetric(rival.time.Seconds(), "regsync-s")
	}
}
