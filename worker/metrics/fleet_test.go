package metrics

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	registry = "docker.io"
	patience = 10 * time.Second
	tick     = 10 * time.Millisecond
)

// stand is a broker with what a fleet keeps there.
type stand struct {
	*broker.Broker
	budget *budget.Store
	runs   *run.Store
}

func newStand(t *testing.T, b *broker.Broker) *stand {
	t.Helper()
	limits, err := budget.Open(t.Context(), b, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(limits.Close)
	runs, err := run.Open(t.Context(), b)
	require.NoError(t, err)
	return &stand{b, limits, runs}
}

func (s *stand) fleet(t *testing.T) (*Fleet, *prometheus.Registry) {
	t.Helper()
	f, err := NewFleet(t.Context(), s.Broker, s.budget, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	r := prometheus.NewPedanticRegistry()
	require.NoError(t, r.Register(f))
	return f, r
}

// ran stores a run of one chunk that has ended.
func (s *stand) ran(t *testing.T, name, kind string, ended time.Time, images run.Tally) {
	t.Helper()
	r := run.Run{Name: name, ID: run.NewID(ended), Kind: kind, Chunks: 1, Started: ended.Add(-time.Hour), Published: true}
	require.NoError(t, s.runs.Put(t.Context(), r))
	a := subject.NewAddress(name, r.ID, registry, "000001")
	require.NoError(t, s.runs.Record(t.Context(), a, run.Progress{State: run.Done, Images: images, Pulls: 3, Updated: ended}))
}

// says checks the named metrics, without their help and type.
func says(t *testing.T, r prometheus.Gatherer, name string, want ...string) {
	t.Helper()
	families, err := r.Gather()
	require.NoError(t, err)
	var got []string
	for _, family := range families {
		if family.GetName() != namespace+"_"+name {
			continue
		}
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			got = append(got, strings.TrimSpace(fmt.Sprintf("%s %v", strings.Join(labels, " "), m.GetGauge().GetValue())))
		}
	}
	require.Equal(t, want, got, name)
}

func TestFleet(t *testing.T) {
	s := newStand(t, brokertest.Embedded(t))
	ctx := t.Context()
	require.NoError(t, s.budget.SetLimits(ctx, "nightly", map[string]budget.Limit{registry: {Requests: 2, Window: time.Hour}}))
	for range 2 {
		_, err := s.budget.Take(ctx, registry, "")
		require.NoError(t, err)
	}
	require.NoError(t, s.budget.Refused(ctx, budget.Call{Registry: "quay.io", Kind: budget.API, Started: time.Now()}, time.Minute, "429"))
	yesterday := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s.ran(t, "nightly", run.KindPlan, yesterday, run.Tally{Total: 4, Copied: 3, Unchanged: 1})
	s.ran(t, "nightly", run.KindPlan, yesterday.Add(24*time.Hour), run.Tally{Total: 4, Unchanged: 2, Failed: 2})
	s.ran(t, "nightly", run.KindRepublish, yesterday.Add(25*time.Hour), run.Tally{Total: 1, Copied: 1})
	s.ran(t, "other", run.KindPlan, yesterday, run.Tally{Total: 1, Failed: 1})
	require.NoError(t, failure.NewStore(s.Broker).Add(ctx, "nightly", failure.Record{
		Repository: "docker.io/library/nginx", Registry: registry, Run: "r", FailedAt: yesterday,
		Images: []failure.Image{{Source: "docker.io/library/nginx:1"}, {Source: "docker.io/library/nginx:2"}},
	}))
	address := func(token string) subject.Address { return subject.NewAddress("nightly", "next", registry, token) }
	for i, m := range []*nats.Msg{
		broker.Scheduled(subject.Plan, address("000001"), time.Now().Add(time.Hour), nil),
		broker.Scheduled(subject.Plan, address("000002"), time.Now().Add(time.Hour), nil),
		broker.Scheduled(subject.Later, address("000003-7"), time.Now().Add(time.Hour), nil),
		nats.NewMsg(address("000004").Under(subject.Chunk)),
		nats.NewMsg(address("000005").Under(subject.Chunk)),
	} {
		_, err := s.Publish(ctx, m)
		require.NoError(t, err, i)
	}
	first, err := s.Stream.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(subject.Chunk+".>"))
	require.NoError(t, err)
	m, err := s.Consumer.Next()
	require.NoError(t, err)

	_, metrics := s.fleet(t)
	says(t, metrics, "broker_up", "1")
	says(t, metrics, "budget_limit_pulls", "docker.io 2")
	says(t, metrics, "budget_spent_pulls", "docker.io 2")
	says(t, metrics, "budget_free_pulls", "docker.io 0")
	says(t, metrics, "budget_window_seconds", "docker.io 3600")
	says(t, metrics, "registry_closed", "docker.io 0", "quay.io 1")
	says(t, metrics, "queued_chunks", "due 1", "running 1", "snoozed 1", "waiting 2")
	says(t, metrics, "oldest_due_chunk_timestamp_seconds", fmt.Sprint(float64(first.Time.UnixMilli())/1000))
	says(t, metrics, "failed_images", "nightly 2", "other 0")
	says(t, metrics, "last_success_timestamp_seconds", fmt.Sprintf("nightly %v", float64(yesterday.Unix())))
	says(t, metrics, "last_run_timestamp_seconds", fmt.Sprintf("nightly %v", float64(yesterday.Add(23*time.Hour).Unix())),
		fmt.Sprintf("other %v", float64(yesterday.Add(-time.Hour).Unix())))
	says(t, metrics, "run_pulls", "nightly 3", "other 3")
	says(t, metrics, "run_images", "nightly copied 0", "nightly failed 2", "nightly skipped 0", "nightly tagged 0", "nightly unchanged 2",
		"other copied 0", "other failed 1", "other skipped 0", "other tagged 0", "other unchanged 0")
	problems, err := testutil.GatherAndLint(metrics)
	require.NoError(t, err)
	require.Empty(t, problems)
	require.NoError(t, m.Ack())
}

// TestOneLookServesAll workers, and what it has seen of runs is kept longer than runs.
func TestOneLookServesAll(t *testing.T) {
	s := newStand(t, brokertest.Embedded(t))
	f, metrics := s.fleet(t)
	says(t, metrics, "last_success_timestamp_seconds")
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s.ran(t, "nightly", run.KindPlan, at, run.Tally{})
	_, other := s.fleet(t)
	sent := s.Conn.Stats().OutMsgs
	says(t, other, "last_success_timestamp_seconds")
	require.EqualValues(t, 1, s.Conn.Stats().OutMsgs-sent, "requests of a scrape")

	known, err := f.mirrors(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, at, known["nightly"].LastSuccess)
	s.ran(t, "nightly", run.KindPlan, at.Add(time.Hour), run.Tally{Total: 1, Failed: 1})
	runs, err := f.runs.List(t.Context(), "nightly")
	require.NoError(t, err)
	after, err := f.mirror(t.Context(), runs[:1], known["nightly"]) // the older one has expired
	require.NoError(t, err)
	require.Equal(t, at, after.LastSuccess)
	require.Equal(t, runs[0].ID, after.Settled)
}

func TestFleetWithoutABroker(t *testing.T) {
	server := brokertest.Start(t)
	s := newStand(t, brokertest.Open(t, server.Config()))
	f, metrics := s.fleet(t)
	says(t, metrics, "broker_up", "1")
	server.Stop()
	require.Eventually(t, func() bool { return !s.Conn.IsConnected() }, patience, tick)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := f.look(ctx)
	require.Error(t, err)
	server.Restart()
	require.Eventually(t, s.Conn.IsConnected, patience, tick)
	says(t, metrics, "broker_up", "1")
}

var row = regexp.MustCompile(`(?m)^\| (skopeo_worker_\w+) \| (\w+) \| ([a-z, ]*) ?\|`)

// TestDocs: docs/metrics.md lists what there is, and nothing else.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	require.NoError(t, err)
	documented := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = strings.TrimSpace(m[3])
	}
	described := make(chan *prometheus.Desc, 100)
	m := New("test")
	for _, c := range []prometheus.Collector{m.images, m.pulls, m.bytes, m.copies, m.chunks, m.outcomes, m.requests, m.info, new(Fleet)} {
		c.Describe(described)
	}
	close(described)
	exposed := map[string]string{}
	desc := regexp.MustCompile(`fqName: "(\w+)".*constLabels: \{(\w*).*variableLabels: \{(.*)\}\}`)
	for d := range described {
		found := desc.FindStringSubmatch(d.String())
		require.NotNil(t, found, d.String())
		labels := strings.ReplaceAll(found[3], ",", ", ")
		exposed[found[1]] = strings.TrimSpace(found[2] + labels)
	}
	require.Equal(t, exposed, documented)
}
