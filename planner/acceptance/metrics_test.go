package acceptance

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

var address = regexp.MustCompile(`address=(\S+)`)

// ask returns an answer of the METRICS_ADDR of a process.
func (p *process) ask(path string) (int, string) {
	p.t.Helper()
	p.says("address=")
	response, err := http.Get("http://" + address.FindStringSubmatch(p.all.String())[1] + path)
	require.NoError(p.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	return response.StatusCode, string(body)
}

// scrape returns the samples of /metrics by name and labels.
func (p *process) scrape() map[string]float64 {
	p.t.Helper()
	status, body := p.ask("/metrics")
	require.Equal(p.t, http.StatusOK, status)
	samples := map[string]float64{}
	for line := range strings.Lines(body) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if number, err := strconv.ParseFloat(value, 64); err == nil && strings.HasPrefix(name, "skopeo_worker_") {
			samples[strings.TrimPrefix(name, "skopeo_worker_")] = number
		}
	}
	return samples
}

// TestMetrics: the metrics show a run without failures, a run with one, and a run that waits for a
// spent budget and a closed registry. They also show the loss of the broker.
func TestMetrics(t *testing.T) {
	t.Parallel()
	s, broker := newFleet(t, registrytest.WithPullLimit(5, time.Hour))
	other := registrytest.New(t)
	other.Inject(registrytest.Fault{Match: registrytest.Any, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"600"}}})
	s.env["INSECURE_REGISTRIES"] += "," + other.Host()
	s.push("osism/tool", "1", "2")
	s.push("osism/big", "1", "2", "3", "4")
	worker := s.worker()

	nightly, weekly := s.with("MIRROR_NAME", "nightly"), s.with("MIRROR_NAME", "weekly")
	s.write("osism/tool")
	nightly.planner("plan", "--wait").exits(0)
	good := nightly.status()
	s.write("osism/tool", "osism/none:1")
	nightly.planner("plan", "--wait").exits(1)
	bad := nightly.status()
	s.writeList("containers:\n  - " + s.source.Host() + "/osism/big\n  - " + other.Host() + "/team/app:1\n")
	planned := weekly.plan()
	// A worker publishes the remainder before it records its progress.
	require.Eventually(t, func() bool {
		status := weekly.status(planned)
		return status.Chunks.Snoozed == 2 && status.Pulls == 2
	}, patience, asking)

	source := fmt.Sprintf("registry=%q", s.source.Host())
	closed := fmt.Sprintf("registry=%q", other.Host())
	unix := func(at time.Time) float64 { return float64(at.UnixMilli()) / 1000 }
	series := worker.scrape()
	for sample, want := range map[string]float64{
		"broker_up": 1,
		`images_total{outcome="copied",` + source + `}`:    4,
		`images_total{outcome="unchanged",` + source + `}`: 2,
		`images_total{outcome="failed",` + source + `}`:    1,
		`pulls_total{` + source + `}`:                      5,
		`copy_duration_seconds_count{` + source + `}`:      4,
		`chunk_duration_seconds_count`:                     4,
		`chunks_total{outcome="done"}`:                     2,
		`chunks_total{outcome="snoozed"}`:                  2,
		`budget_limit_pulls{` + source + `}`:               5,
		`budget_spent_pulls{` + source + `}`:               5, // a GET has denied osism/none:1, too
		`budget_free_pulls{` + source + `}`:                0,
		`budget_window_seconds{` + source + `}`:            3600,
		`registry_closed{` + source + `}`:                  0,
		`registry_closed{` + closed + `}`:                  1,
		`queued_chunks{state="snoozed"}`:                   2,
		`queued_chunks{state="waiting"}`:                   0,
		`queued_chunks{state="due"}`:                       0,
		`queued_chunks{state="running"}`:                   0,
		`failed_images{mirror="nightly"}`:                  1,
		`failed_images{mirror="weekly"}`:                   0,
		`last_success_timestamp_seconds{mirror="nightly"}`: unix(*good.Finished),
		`last_run_timestamp_seconds{mirror="nightly"}`:     unix(bad.Started),
		`run_state{mirror="nightly",state="failed"}`:       1,
		`run_state{mirror="nightly",state="done"}`:         0,
		`run_state{mirror="weekly",state="snoozed"}`:       1,
		`run_images{mirror="nightly",outcome="failed"}`:    1,
		`run_images{mirror="nightly",outcome="unchanged"}`: 2,
		`run_images{mirror="weekly",outcome="copied"}`:     2,
		`run_pulls{mirror="nightly"}`:                      1,
		`run_pulls{mirror="weekly"}`:                       2,
	} {
		require.Contains(t, series, sample)
		require.InDelta(t, want, series[sample], 0.001, sample)
	}
	require.Positive(t, series[`copied_bytes_total{`+source+`}`])
	require.Positive(t, series[`registry_requests_total{code="200",kind="manifest",`+source+`}`])
	require.Positive(t, series[`registry_requests_total{code="429",kind="other",`+closed+`}`])
	now := unix(time.Now())
	require.InDelta(t, now+3600, series[`registry_next_slot_timestamp_seconds{`+source+`}`], 120)
	require.InDelta(t, now+600, series[`registry_next_slot_timestamp_seconds{`+closed+`}`], 120)
	require.NotContains(t, series, "oldest_due_chunk_timestamp_seconds")
	require.NotContains(t, series, `last_success_timestamp_seconds{mirror="weekly"}`)
	require.Equal(t, run.StateFailed, bad.State)

	broker.Stop()
	answers := func(status int) func() bool {
		return func() bool { got, _ := worker.ask("/readyz"); return got == status }
	}
	require.Eventually(t, answers(http.StatusServiceUnavailable), patience, tick)
	status, _ := worker.ask("/healthz")
	require.Equal(t, http.StatusOK, status)
	alone := worker.scrape()
	require.Zero(t, alone["broker_up"])
	require.Contains(t, alone, `pulls_total{`+source+`}`)
	require.NotContains(t, alone, `queued_chunks{state="snoozed"}`)
	broker.Restart()
	require.Eventually(t, answers(http.StatusOK), patience, tick)
	require.Eventually(t, func() bool {
		back := worker.scrape()
		return back["broker_up"] == 1 && back[`queued_chunks{state="snoozed"}`] == 2
	}, patience, tick)
}

// TestMirrorServesMetrics: planner mirror serves metrics if METRICS_ADDR is set.
func TestMirrorServesMetrics(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.push("osism/tool", "1")
	s.write("osism/tool")
	open := s.gate(blobs)
	p := s.served().planner("mirror")
	s.waitFor(blobs)
	require.EqualValues(t, 1, p.scrape()[`run_state{mirror="default",state="running"}`])
	taken := s.with("METRICS_ADDR", address.FindStringSubmatch(p.all.String())[1], "DATA_DIR", t.TempDir())
	require.Contains(t, taken.planner("mirror").exits(2), "METRICS_ADDR")
	open()
	p.exits(0)
}

// TestPlainHTTPIsLearned: a worker finds out at its start that a registry uses plain HTTP, and not
// again for each chunk. Its attempts with HTTPS count as errors.
func TestPlainHTTPIsLearned(t *testing.T) {
	t.Parallel()
	const chunks = 12
	s, _ := newFleet(t, registrytest.WithQuayAPI(registrytest.BulkAPI{}))
	s.env["QUAY_HOSTS"], s.env["CHUNK_SIZE"] = s.source.Host(), "1"
	var repositories []string
	for i := range chunks {
		repositories = append(repositories, fmt.Sprintf("osism/tool%d", i))
		s.push(repositories[i], "1")
	}
	s.write(repositories...)
	worker := s.worker()
	s.planner("plan", "--wait").exits(0)
	seen := 0
	for sample, n := range worker.scrape() {
		if strings.HasPrefix(sample, "registry_requests_total{") && strings.Contains(sample, `code="error"`) {
			seen++
			require.Less(t, n, float64(chunks)/2, sample)
		}
	}
	require.LessOrEqual(t, seen, 4, "two kinds of requests, to each registry")
}
