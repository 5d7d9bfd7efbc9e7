package bench

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// BenchmarkBudget mirrors 600 images with 8 workers from a registry that allows 60
// pulls in 10 s: once it says so in its headers, and once it does not. The ratio is to
// the ideal, which is a window for each 60 images after the first.
func BenchmarkBudget(b *testing.B) {
	const images, limit, window = 600, 60, 10 * time.Second
	ideal := time.Duration(images/limit-1) * window
	for b.Loop() {
		for name, quirks := range map[string][]registrytest.Option{
			"told":   {registrytest.WithPullLimit(limit, window)},
			"untold": {registrytest.WithPullLimit(limit, window), registrytest.WithoutLimitHeaders()},
		} {
			s := &site{source: registrytest.New(b, quirks...), destination: registrytest.New(b)}
			for i := range images {
				repository := fmt.Sprintf("team%d/app", i%30)
				_, err := s.source.PushImage(repository, fmt.Sprint(i), registrytest.Image{Version: fmt.Sprint(i)})
				require.NoError(b, err)
				if i < 30 {
					s.repositories = append(s.repositories, repository)
				}
			}
			server := brokertest.Start(b)
			u := s.fleet(b, server.URL(), 8)
			refused := s.source.Count(registrytest.Answered(http.StatusTooManyRequests))
			b.ReportMetric(u.time.Seconds()/ideal.Seconds(), name+"-ratio")
			b.ReportMetric(float64(refused), name+"-refused")
			b.ReportMetric(100*float64(refused)/float64(s.source.Pulls()), name+"-refused-%")
		}
	}
}

// fleet plans the repositories and works them off with so many workers.
func (s *site) fleet(b *testing.B, broker string, workers int) used {
	b.Helper()
	dir, err := programs()
	require.NoError(b, err)
	var list strings.Builder
	list.WriteString("containers:\n")
	for _, r := range s.repositories {
		fmt.Fprintf(&list, "  - %s/%s\n", s.source.Host(), r)
	}
	environment := []string{
		"NATS_URL=" + broker, "MIRROR_SOURCE_URL=" + write(b, "list.yml", list.String()), "CHUNK_SIZE=1",
		"MIRROR_DEST_URL=" + s.destination.Host() + "/mirror", "METRICS_ADDR=127.0.0.1:0", "LOG_LEVEL=error",
		"INSECURE_REGISTRIES=" + s.source.Host() + "," + s.destination.Host(),
	}
	for range workers {
		worker := exec.Command(filepath.Join(dir, "worker"))
		worker.Env = append(os.Environ(), environment...)
		require.NoError(b, worker.Start())
		defer func() {
			_ = worker.Process.Signal(syscall.SIGTERM)
			_ = worker.Wait()
		}()
	}
	return execute(b, environment, "planner", "plan", "--wait")
}
