package bench

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// BenchmarkBudget mirrors images with 8 workers from a registry that allows 60 pulls in
// 10 s: once it announces that in its headers, and once it does not. The ratio is to the
// ideal, which is a window for each 60 images after the first.
func BenchmarkBudget(b *testing.B) {
	const limit, window = 60, 10 * time.Second
	images := limit * *windows
	ideal := time.Duration(*windows-1) * window
	for b.Loop() {
		for name, options := range map[string][]registrytest.Option{
			"announced":   {registrytest.WithPullLimit(limit, window)},
			"unannounced": {registrytest.WithPullLimit(limit, window), registrytest.WithoutLimitHeaders()},
		} {
			p := unlimited
			p.options = options
			w := newWorld(b, p, 0, false)
			c := catalogue{repositories: registrytest.Numbered("team%d/app", 30)}
			for i := range images {
				_, err := w.source.PushImage(c.repositories[i%30], fmt.Sprint(i), registrytest.Image{Version: fmt.Sprint(i)})
				require.NoError(b, err)
			}
			u := w.fleet(b, c, 8, "COPY_ENGINE=skopeo")
			refused := w.source.Count(registrytest.Answered(http.StatusTooManyRequests))
			b.ReportMetric(u.Seconds/ideal.Seconds(), name+"-ratio")
			b.ReportMetric(float64(refused), name+"-refused")
			b.ReportMetric(100*float64(refused)/float64(w.source.Pulls()), name+"-refused-%")
		}
	}
}
