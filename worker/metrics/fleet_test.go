package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/estimate"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/prune"
)

const (
	registry = "docker.io"
	patience = 10 * time.Second
	tick     = 10 * time.Millisecond
)

// stand is a broker with the data that a fleet keeps there.
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

// fleet is the state of one worker, which serves its metrics.
func (s *stand) fleet(t *testing.T) (*Fleet, *Metrics) {
	t.Helper()
	f, err := NewFleet(t.Context(), s.Broker, s.budget, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	m := New("test")
	m.Watch(f)
	return f, m
}

// later makes time pass for a worker.
func later(f *Fleet, d time.Duration) {
	now := f.now
	f.now = func() time.Time { return now().Add(d) }
}

// ran stores a run of one chunk that has ended, and returns it.
func (s *stand) ran(t *testing.T, name, kind string, ended time.Time, images run.Tally) run.Run {
	t.Helper()
	r := run.Run{Name: name, ID: run.NewID(ended), Kind: kind, Chunks: 1, Started: ended.Add(-time.Hour), Published: true}
	require.NoError(t, s.runs.Put(t.Context(), r))
	a := subject.NewAddress(name, r.ID, registry, "000001")
	require.NoError(t, s.runs.Record(t.Context(), a, run.Progress{State: run.Done, Images: images, Pulls: 3, Updated: ended}))
	return r
}

// says requires these values of the named metrics, ignoring help and type.
func says(t *testing.T, m *Metrics, name string, want ...string) {
	t.Helper()
	families, err := m.Registry.Gather()
	require.NoError(t, err)
	var got []string
	for _, family := range families {
		if family.GetName() != namespace+"_"+name {
			continue
		}
		for _, m := range family.GetMetric() {
			var words []string
			for _, l := range m.GetLabel() {
				words = append(words, l.GetValue())
			}
			got = append(got, strings.Join(append(words, fmt.Sprint(m.GetGauge().GetValue())), " "))
		}
	}
	require.Equal(t, want, got, name)
}

// unix is a time as a metric has it.
func unix(at time.Time) string { return fmt.Sprint(float64(at.UnixMilli()) / 1000) }

// ended is when the first run of a stand ended.
var ended = time.Now().UTC().Add(-48 * time.Hour).Truncate(time.Second)

// busy returns a stand with data for every metric: three registries, of which one is spent, one
// closed and one away; a mirror with a good and a bad run; and another mirror. It also returns when
// the due chunk became due.
func busy(t *testing.T, s *stand) (due time.Time) {
	t.Helper()
	ctx := t.Context()
	require.NoError(t, s.budget.SetLimits(ctx, "nightly", map[string]budget.Limit{registry: {Requests: 2, Window: time.Hour}}))
	for range 2 {
		// If an answer of a cluster that has just started is lost, the token is stored twice.
		if _, err := s.budget.Take(ctx, "", registry, ""); !errors.As(err, new(*budget.SpentError)) {
			require.NoError(t, err)
		}
	}
	require.NoError(t, s.budget.Refused(ctx, budget.Call{Registry: "quay.io", Kind: budget.API, Started: time.Now()}, time.Minute, "429"))
	require.NoError(t, s.budget.Away(ctx, budget.Outage{Registry: "target.example.com", Activity: budget.Push, Reason: "507", Started: time.Now()}))
	s.ran(t, "nightly", run.KindPlan, ended, run.Tally{Total: 4, Copied: 3, Unchanged: 1})
	s.ran(t, "nightly", run.KindPlan, ended.Add(24*time.Hour), run.Tally{Total: 4, Unchanged: 2, Failed: 2})
	s.ran(t, "nightly", run.KindRepublish, ended.Add(25*time.Hour), run.Tally{Total: 1, Copied: 1})
	s.ran(t, "other", run.KindPlan, ended, run.Tally{Total: 1, Failed: 1})
	for _, name := range []string{"nightly", "longago"} {
		require.NoError(t, failure.NewStore(s.Broker, slog.New(slog.DiscardHandler)).Add(ctx, name, failure.Record{
			Repository: "docker.io/library/nginx", Registry: registry, Run: "r",
			Images: []failure.Image{{Source: "docker.io/library/nginx:1"}, {Source: "docker.io/library/nginx:2"}},
		}))
	}
	prunes, err := prune.OpenStore(ctx, s.Broker)
	require.NoError(t, err)
	lease, err := prunes.Take(ctx, "nightly", prune.Holder{Plan: "a", By: "ada", Process: "1"}, nil)
	require.NoError(t, err)
	require.NoError(t, lease.Release(ctx, &prune.Last{Plan: "a", By: "ada", At: ended, Outcome: prune.Outcome{Deleted: 5, Gone: 1, Skipped: 2, Failed: 3}}))
	require.NoError(t, prunes.Propose(ctx, prune.Plan{Mirror: "nightly", Tags: 7, Recorded: 100}, prune.Terms{Caps: prune.Caps{All: prune.MustShare(10)}}, "ada"))
	require.NoError(t, prunes.Propose(ctx, prune.Plan{Mirror: "other"}, prune.Terms{}, "ada"))
	gone := reference.MustTag("2")
	require.Eventually(t, func() bool { // a replica that is behind may answer
		n, err := failure.NewStore(s.Broker, slog.New(slog.DiscardHandler)).MarkLeft(ctx, "nightly", func(r reference.Reference) bool { return r.Tag != gone }, time.Now())
		return err == nil && n == 1
	}, patience, tick)
	for _, foreign := range []string{"mirror.failed.x", subject.Failure("nightly", registry, "docker.io/library/other", 1)} {
		_, err := s.Publish(ctx, nats.NewMsg(foreign))
		require.NoError(t, err)
	}
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
	_, err = s.Consumer.Next() // a worker takes the first one
	require.NoError(t, err)
	m, err := s.Stream.GetLastMsgForSubject(ctx, address("000005").Under(subject.Chunk))
	require.NoError(t, err)
	return m.Time
}

func TestFleet(t *testing.T) {
	s := newStand(t, brokertest.Embedded(t))
	due := busy(t, s)
	_, m := s.fleet(t)
	says(t, m, "broker_up", "1")
	says(t, m, "budget_limit_pulls", "docker.io 2")
	says(t, m, "budget_spent_pulls", "docker.io 2")
	says(t, m, "budget_free_pulls", "docker.io 0")
	says(t, m, "budget_window_seconds", "docker.io 3600")
	says(t, m, "registry_closed", "docker.io 0", "quay.io 1", "target.example.com 1")
	says(t, m, "queued_chunks", "due 1", "running 1", "snoozed 1", "waiting 2")
	says(t, m, "registry_snoozed_chunks", "docker.io 1", "quay.io 0", "target.example.com 0")
	says(t, m, "oldest_due_chunk_timestamp_seconds", unix(due))
	says(t, m, "failed_images", "longago 2", "nightly 1", "other 0")
	says(t, m, "failed_images_left_list", "longago 0", "nightly 1", "other 0")
	says(t, m, "unreadable_records", "2")
	says(t, m, "last_success_timestamp_seconds", "nightly "+unix(ended))
	says(t, m, "last_run_timestamp_seconds", "nightly "+unix(ended.Add(23*time.Hour)), "other "+unix(ended.Add(-time.Hour)))
	says(t, m, "run_pulls", "nightly 3", "other 3")
	says(t, m, "run_images", "nightly copied 0", "nightly dropped 0", "nightly failed 2", "nightly kept 0", "nightly skipped 0", "nightly tagged 0", "nightly unchanged 2", "nightly vanished 0", "nightly waiting 0",
		"other copied 0", "other dropped 0", "other failed 1", "other kept 0", "other skipped 0", "other tagged 0", "other unchanged 0", "other vanished 0", "other waiting 0")
	says(t, m, "prune_candidate_tags", "nightly 7", "other 0")
	says(t, m, "pruned_tags", "nightly deleted 5", "nightly failed 3", "nightly gone 1", "nightly skipped 2")
	says(t, m, "last_prune_timestamp_seconds", "nightly "+unix(ended))
	says(t, m, "run_state", "nightly cancelled 0", "nightly done 0", "nightly failed 1", "nightly lost 0", "nightly running 0", "nightly snoozed 0",
		"nightly superseded 0", "nightly waiting 0", "other cancelled 0", "other done 0", "other failed 1", "other lost 0", "other running 0",
		"other snoozed 0", "other superseded 0", "other waiting 0")
}

// TestAway: a registry that is away counts as closed until a probe succeeds, whenever its next
// probe is due.
func TestAway(t *testing.T) {
	s := newStand(t, brokertest.Embedded(t))
	_, m := s.fleet(t)
	require.NoError(t, s.budget.Away(t.Context(), budget.Outage{Registry: registry, Activity: budget.Push, Reason: "507", Started: time.Now()}))
	rows, err := estimate.Registries(t.Context(), s.budget)
	require.NoError(t, err)
	require.Len(t, rows, 1)
	says(t, m, "registry_closed", "docker.io 1")
	says(t, m, "registry_away_since_timestamp_seconds", "docker.io "+unix(*rows[0].ClosedSince))
}

// TestOpenAgain: a registry that was closed is exported as open for a day, even without other data.
func TestOpenAgain(t *testing.T) {
	s := newStand(t, brokertest.Embedded(t))
	f, m := s.fleet(t)
	require.NoError(t, s.budget.Refused(t.Context(), budget.Call{Registry: "quay.io", Kind: budget.API, Started: time.Now()}, time.Second, "429"))
	says(t, m, "registry_closed", "quay.io 1")
	require.Eventually(t, func() bool {
		known, err := estimate.Registries(t.Context(), s.budget)
		return err == nil && len(known) == 0
	}, patience, tick)
	says(t, m, "registry_closed", "quay.io 0")
	later(f, renewAfter)
	says(t, m, "registry_closed", "quay.io 0")
	later(f, keepRegistry)
	says(t, m, "registry_closed")
}

// TestOneLookServesAll: the worker that queried last queries again. Another worker queries only if
// the first stops.
func TestOneLookServesAll(t *testing.T) {
	s := newStand(t, brokertest.Embedded(t))
	first, of := s.fleet(t)
	second, other := s.fleet(t)
	by := func() string {
		entry, err := first.kv.Get(t.Context(), keyFleet)
		require.NoError(t, err)
		var p picture
		require.NoError(t, json.Unmarshal(entry.Value(), &p))
		return p.By
	}
	says(t, of, "queued_chunks", "due 0", "running 0", "snoozed 0", "waiting 0")
	_, err := s.Publish(t.Context(), nats.NewMsg(subject.NewAddress("n", "r", registry, "1").Under(subject.Chunk)))
	require.NoError(t, err)
	later(second, takeOver-time.Second)
	sent := s.Conn.Stats().OutMsgs
	says(t, other, "queued_chunks", "due 0", "running 0", "snoozed 0", "waiting 0")
	require.EqualValues(t, 1, s.Conn.Stats().OutMsgs-sent, "requests of a scrape")
	says(t, of, "queued_chunks", "due 0", "running 0", "snoozed 0", "waiting 0")
	require.Equal(t, first.id, by())
	later(first, renewAfter)
	says(t, of, "queued_chunks", "due 1", "running 0", "snoozed 0", "waiting 0")
	require.Equal(t, first.id, by())
	says(t, other, "queued_chunks", "due 1", "running 0", "snoozed 0", "waiting 0")
	later(second, time.Second)
	says(t, other, "broker_up", "1")
	require.Equal(t, second.id, by())

	// An unreadable result is replaced, even if it is new.
	_, err = first.kv.PutString(t.Context(), keyFleet, "{")
	require.NoError(t, err)
	says(t, other, "queued_chunks", "due 1", "running 0", "snoozed 0", "waiting 0")

	// If two workers query at the same time, both succeed.
	require.NoError(t, first.keep(t.Context(), picture{}, 1))
	require.Equal(t, second.id, by())
}

// TestALookIsCheap: a query takes as many requests with thousands of chunks as with a few.
func TestALookIsCheap(t *testing.T) {
	s := newStand(t, brokertest.Embedded(t))
	busy(t, s)
	now := time.Now().UTC()
	r := run.Run{Name: "nightly", ID: run.NewID(now), Kind: run.KindPlan, Started: now, Published: true}
	require.NoError(t, s.runs.Put(t.Context(), r))
	f, m := s.fleet(t)
	n := 0
	grow := func(by int) {
		var msgs []*nats.Msg
		for range by {
			n++
			a := subject.NewAddress("nightly", r.ID, registry, fmt.Sprint(n))
			msgs = append(msgs, broker.Scheduled(subject.Plan, a, now.Add(time.Hour), make([]byte, 1000)))
		}
		_, err := s.PublishAll(t.Context(), msgs)
		require.NoError(t, err)
	}
	look := func() nats.Statistics {
		later(f, renewAfter)
		before := s.Conn.Stats()
		says(t, m, "queued_chunks", "due 1", "running 1", "snoozed 1", fmt.Sprintf("waiting %d", n+2))
		after := s.Conn.Stats()
		return nats.Statistics{OutMsgs: after.OutMsgs - before.OutMsgs, InMsgs: after.InMsgs - before.InMsgs, InBytes: after.InBytes - before.InBytes}
	}
	grow(1)
	look()
	few := look()
	grow(5000)
	many := look()
	t.Logf("a look: %+v", many)
	require.Equal(t, few.OutMsgs, many.OutMsgs)
	require.InDelta(t, few.InMsgs, many.InMsgs, 2)
	require.Less(t, many.InBytes, few.InBytes+1024)
}

// TestFleetWithoutABroker: a scrape reports at once that the broker does not answer, and has the
// metrics of the worker itself.
func TestFleetWithoutABroker(t *testing.T) {
	waiting := New("test")
	says(t, waiting, "broker_up", "0")
	server := brokertest.Start(t)
	s := newStand(t, brokertest.Open(t, server.Config()))
	f, m := s.fleet(t)
	says(t, m, "broker_up", "1")
	server.Stop()
	require.Eventually(t, func() bool { return !s.Conn.IsConnected() }, patience, tick)
	_, err := f.look(context.Background())
	require.ErrorIs(t, err, errNoBroker)
	says(t, m, "broker_up", "0")
	says(t, m, "queued_chunks")
	says(t, m, "build_info", "test 1")
	server.Restart()
	require.Eventually(t, func() bool {
		p, err := f.look(t.Context())
		return err == nil && p.By == f.id
	}, patience, tick)
	says(t, m, "broker_up", "1")

	// A scrape that waits for one that hangs gives up, too.
	require.True(t, f.turn.TryAcquire(1))
	late, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = f.look(late)
	require.ErrorIs(t, err, context.Canceled)
}

// TestFleetOnACluster: the metrics do not depend on which server leads the stream, nor on replicas
// that lag.
func TestFleetOnACluster(t *testing.T) {
	cluster := brokertest.StartCluster(t)
	s := newStand(t, brokertest.Open(t, cluster.Config()))
	busy(t, s)
	_, m := s.fleet(t)
	requireAll := func() {
		t.Helper()
		require.Eventually(t, func() bool {
			f, another := s.fleet(t)
			later(f, takeOver)
			families, err := another.Registry.Gather()
			values := map[string]float64{}
			for _, family := range families {
				for _, m := range family.GetMetric() {
					values[family.GetName()] += m.GetGauge().GetValue()
				}
			}
			return err == nil && values["skopeo_worker_broker_up"] == 1 && values["skopeo_worker_queued_chunks"] == 5 &&
				values["skopeo_worker_failed_images"] == 3 && values["skopeo_worker_failed_images_left_list"] == 1 && values["skopeo_worker_run_pulls"] == 6 &&
				values["skopeo_worker_last_success_timestamp_seconds"] == float64(ended.Unix())
		}, patience, tick)
	}
	requireAll()
	cluster.StepDown(broker.StreamName)
	cluster.StepDown("KV_" + run.Bucket)
	requireAll()
	says(t, m, "queued_chunks", "due 1", "running 1", "snoozed 1", "waiting 2")
}
