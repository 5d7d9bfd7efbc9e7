package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/overview"
	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/redact"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

const mirror = "nightly"

// inbox is a server that receives notifications.
type inbox struct {
	*httptest.Server
	mu     sync.Mutex
	events []event
	bodies []string
	status int
}

func newInbox(t *testing.T) *inbox {
	t.Helper()
	i := &inbox{status: http.StatusOK}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		i.mu.Lock()
		defer i.mu.Unlock()
		w.WriteHeader(i.status)
		if i.status != http.StatusOK {
			return
		}
		var e event
		_ = json.Unmarshal(body, &e)
		_, _ = io.WriteString(w, "{}")
		i.events, i.bodies = append(i.events, e), append(i.bodies, string(body))
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *inbox) answers(status int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.status = status
}

// take returns the messages since the last call.
func (i *inbox) take() []event {
	i.mu.Lock()
	defer i.mu.Unlock()
	events := i.events
	i.events = nil
	return events
}

// bench is a broker with notifiers, and a clock that the test moves.
type bench struct {
	t        *testing.T
	b        *broker.Broker
	runs     *run.Store
	failures *failure.Store
	changes  *change.Store
	budget   *budget.Store
	gone     []change.Change // in the run that ends next
	passed   time.Duration
	next     time.Time
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b, quiet := brokertest.Embedded(t), slog.New(slog.DiscardHandler)
	runs, err := run.Open(t.Context(), b)
	require.NoError(t, err)
	limits, err := budget.Open(t.Context(), b, quiet)
	require.NoError(t, err)
	t.Cleanup(limits.Close)
	changes, err := change.Open(t.Context(), b)
	require.NoError(t, err)
	return &bench{t: t, b: b, runs: runs, changes: changes, failures: failure.NewStore(b, quiet), budget: limits}
}

// nextOf is when this process plans a mirror next.
func (b *bench) nextOf(name string) time.Time {
	if name != mirror {
		return time.Time{}
	}
	return b.next
}

func (b *bench) look(maxAge time.Duration) *overview.Reader {
	look := overview.New(overview.Sources{Runs: b.runs, Failures: b.failures, Budget: b.budget}, mirror, maxAge)
	return look
}

// process returns the notifier of a new process.
type process struct {
	*Notifier
	maxAge time.Duration
}

func (b *bench) notifier(urls, on string, maxAge time.Duration) process {
	b.t.Helper()
	c := Config{URLs: urls, On: on}
	require.Empty(b.t, c.Validate())
	n, err := New(b.t.Context(), c, b.b, b.look(maxAge), b.failures, b.changes, b.nextOf, slog.New(slog.DiscardHandler))
	require.NoError(b.t, err)
	n.now = func() time.Time { return time.Now().Add(b.passed) }
	return process{n, maxAge}
}

// looks makes notifiers look for events at the same time.
func (b *bench) looks(all ...process) {
	b.t.Helper()
	var group sync.WaitGroup
	for _, n := range all {
		n.overview = b.look(n.maxAge) // one stays the same for a second
		group.Go(func() { _ = n.Notifier.look(b.t.Context()) })
	}
	group.Wait()
}

// ends stores a run that has just ended, and the images that have failed by then.
func (b *bench) ends(failing ...string) string {
	b.t.Helper()
	now := time.Now().UTC()
	r := run.Run{Name: mirror, ID: run.NewID(now), Kind: run.KindPlan, Chunks: 1, Started: now, FirstDue: now, Published: true}
	require.NoError(b.t, b.runs.Put(b.t.Context(), r))
	require.NoError(b.t, b.runs.Record(b.t.Context(), subject.NewAddress(mirror, r.ID, "quay.io", "000001"), run.Progress{
		State: run.Done, Images: run.Tally{Total: 5, Failed: len(failing)}, Updated: now,
	}))
	require.NoError(b.t, b.changes.Add(b.t.Context(), mirror, r.ID, b.gone...))
	_, err := b.failures.Forget(b.t.Context(), mirror, func(failure.Record, failure.Image) bool { return true })
	require.NoError(b.t, err)
	record := failure.Record{Repository: "quay.io/a/b", Registry: "quay.io", Run: r.ID}
	for _, tag := range failing {
		record.Images = append(record.Images, failure.Image{Source: "quay.io/a/b:" + tag, Destination: "d/a/b:" + tag, Reason: "away"})
	}
	if len(failing) > 0 {
		require.NoError(b.t, b.failures.Add(b.t.Context(), mirror, record))
	}
	return r.ID
}

// TestOnce: a run that ended with failures causes one message, even with several processes and
// restarts. The message lists new failures and recovered images. A run without failures causes
// none.
func TestOnce(t *testing.T) {
	b, in := newBench(t), newInbox(t)
	first, second := b.notifier(in.URL, onProblems, 0), b.notifier(in.URL, onProblems, 0)
	b.looks(first, second)
	require.Empty(t, in.take())

	id := b.ends("1", "2")
	b.looks(first, second)
	b.looks(b.notifier(in.URL, onProblems, 0), first)
	events := in.take()
	require.Len(t, events, 1)
	require.Equal(t, kindFailed, events[0].Kind)
	require.Equal(t, id, events[0].Run)
	require.NotEmpty(t, events[0].ID)
	require.Equal(t, []string{"quay.io/a/b:1", "quay.io/a/b:2"}, events[0].New)
	require.Equal(t, "Mirror nightly: 2 images failed", events[0].Title)

	b.ends("2", "3")
	b.looks(second, first)
	events = in.take()
	require.Len(t, events, 1)
	require.Equal(t, 2, events[0].Failing)
	require.Equal(t, []string{"quay.io/a/b:3"}, events[0].New)
	require.Equal(t, []string{"quay.io/a/b:1"}, events[0].Recovered)
	require.Contains(t, events[0].Text, "Recovered:\n- quay.io/a/b:1")

	b.ends()
	b.looks(first, second)
	require.Empty(t, in.take(), "all is well")
	b.ends("2")
	b.looks(first, second)
	require.Equal(t, []string{"quay.io/a/b:2"}, in.take()[0].New, "it was well in between")
}

func TestAlways(t *testing.T) {
	b, in := newBench(t), newInbox(t)
	n := b.notifier(in.URL, onAlways, 0)
	b.ends()
	b.looks(n)
	events := in.take()
	require.Len(t, events, 1)
	require.Equal(t, kindDone, events[0].Kind)
	require.Empty(t, events[0].Vanished)

	// The message lists the images that have vanished.
	to := reference.MustRepository("registry.example.com/a/b")
	b.gone = []change.Change{{Source: reference.MustRepository("quay.io/a/b"), Destination: to, Tag: reference.MustTag("0.9"), At: time.Now()}}
	b.ends()
	b.looks(n)
	events = in.take()
	require.Len(t, events, 1)
	require.Equal(t, []string{"quay.io/a/b:0.9"}, events[0].Vanished)
	require.Contains(t, events[0].Text, "Vanished at the source:\n- quay.io/a/b:0.9")
}

// TestRetried: a refused message is retried, independently for each receiver.
func TestRetried(t *testing.T) {
	b, broken, in := newBench(t), newInbox(t), newInbox(t)
	broken.answers(http.StatusInternalServerError)
	n := b.notifier(broken.URL+"/hook/secret-secret-secret\n "+in.URL, onProblems, 0)
	b.ends("1")
	b.looks(n)
	require.Len(t, in.take(), 1)
	require.Len(t, n.Problems(), 1)
	require.Contains(t, n.Problems()[0], "http: refused: 500 Internal Server Error (Mirror nightly: 1 image failed)")
	broken.answers(http.StatusOK)
	b.looks(n)
	require.Empty(t, broken.take(), "it is not time yet")
	b.passed = 2 * firstPause
	b.looks(n)
	require.Len(t, broken.take(), 1)
	require.Empty(t, in.take())
	require.Empty(t, n.Problems())
	require.NotContains(t, redact.Text("posting to "+broken.URL+"/hook/secret-secret-secret"), "secret-secret-secret")
}

// TestStanding: a lasting problem of a mirror or a registry is a single event.
func TestStanding(t *testing.T) {
	b, in := newBench(t), newInbox(t)
	n := b.notifier(in.URL, onProblems, time.Millisecond)
	kinds := func() map[kind]event {
		t.Helper()
		b.looks(n)
		found := map[kind]event{}
		for _, e := range in.take() {
			require.NotContains(t, found, e.Kind)
			found[e.Kind] = e
		}
		return found
	}
	b.ends()
	require.Contains(t, kinds(), kindStale)
	require.Empty(t, kinds())

	require.NoError(t, b.budget.Away(t.Context(), budget.Outage{Registry: "registry.example.com", Activity: budget.Push, Reason: "507 Insufficient Storage", Started: time.Now()}))
	require.NotContains(t, kinds(), kindClosed)
	b.passed = closedFor
	closed := kinds()[kindClosed]
	require.Equal(t, "registry.example.com", closed.Registry)
	require.Contains(t, closed.Text, "507 Insufficient Storage.")
	require.NotContains(t, kinds(), kindClosed)
	b.passed = 0

	// This registry limits requests. The broker has recorded that for an earlier process.
	until, since := time.Now().Add(time.Minute), time.Now().Add(-closedFor-time.Minute)
	limits := []run.Registry{{Registry: "quay.io", ClosedUntil: &until, RefusedSince: &since, Reason: "429 Too Many Requests"}}
	require.NoError(t, n.registries(t.Context(), limits))
	require.NoError(t, b.notifier(in.URL, onProblems, time.Hour).registries(t.Context(), limits))
	require.Contains(t, kinds()[kindClosed].Text, "429 Too Many Requests.")
	recent := time.Now().Add(-closedFor + time.Minute)
	require.NoError(t, n.registries(t.Context(), []run.Registry{{Registry: "ghcr.io", ClosedUntil: &until, RefusedSince: &recent}}))
	require.NotContains(t, kinds(), kindClosed)

	// The budget of this unfinished run does not suffice before the next plan.
	now := time.Now().UTC()
	r := run.Run{Name: mirror, ID: run.NewID(now), Kind: run.KindPlan, Chunks: 1, Started: now, FirstDue: now, Published: true}
	require.NoError(t, b.runs.Put(t.Context(), r))
	status := run.Status{Run: r.ID, Registries: []run.Registry{{Registry: "docker.io", ToPull: 500, Limit: 100, Window: "6h"}}}
	later := now.Add(24 * time.Hour)
	status.Registries[0].EstimatedDone = &later
	b.next = now.Add(time.Hour)
	require.NoError(t, n.mirror(t.Context(), overview.Mirror{Name: "weekly", Current: []run.Status{status}}))
	require.NotContains(t, kinds(), kindBudget, "another process plans it")
	for range 2 {
		require.NoError(t, n.mirror(t.Context(), overview.Mirror{Name: mirror, Current: []run.Status{status}}))
	}
	require.Contains(t, kinds()[kindBudget].Text, "500 manifests left to pull from docker.io")
	b.next = now.Add(48 * time.Hour)
	status.Run = run.NewID(now)
	require.NoError(t, n.mirror(t.Context(), overview.Mirror{Name: mirror, Current: []run.Status{status}}))
	require.NotContains(t, kinds(), kindBudget)

	require.NoError(t, n.mirror(t.Context(), overview.Mirror{Name: mirror, Last: &run.Status{Run: status.Run, State: run.StateLost, Chunks: run.Chunks{Lost: 3}}}))
	require.Contains(t, kinds()[kindLost].Text, "3 chunks of run "+status.Run)
}

// TestServices: shoutrrr sends the text, with its title.
func TestServices(t *testing.T) {
	in := newInbox(t)
	host := strings.TrimPrefix(in.URL, "http://")
	c := Config{URLs: fmt.Sprintf("ntfy://%s/topic?scheme=http generic://%s/hook?disabletls=yes&template=json", host, host), On: onProblems}
	require.Empty(t, c.Validate())
	c.SendTest(func(service string, err error) { require.NoError(t, err, service) })
	require.Len(t, in.bodies, 2)
	for _, body := range in.bodies {
		require.Contains(t, body, "Notifications arrive here.")
	}
	in.answers(http.StatusForbidden)
	c.SendTest(func(service string, err error) { require.Error(t, err, service) })
}

func TestBadURLs(t *testing.T) {
	for _, text := range []string{"nonsense", "nosuch://host/token-token-token-token", "https:///path", "://", "slack://x", "logger://"} {
		c := Config{URLs: text, On: onProblems}
		bad := c.Validate()
		require.Len(t, bad, 1, text)
		require.Contains(t, bad[0].Error(), "NOTIFY_URLS: expected URLs of shoutrrr")
		require.NotContains(t, bad[0].Error(), "token-token")
	}
	c := Config{On: "never"}
	require.Len(t, c.Validate(), 1)
}

// TestCrash: if a process ends while it sends a message, another one sends it later.
func TestCrash(t *testing.T) {
	b, in := newBench(t), newInbox(t)
	crashing := b.notifier(in.URL, onProblems, 0)
	b.ends("1")
	crashing.config.receivers[0].send = func(event) error { return context.Canceled }
	_, _, err := crashing.store.claim(t.Context(), "some event", crashing.config.receivers[0], time.Now())
	require.NoError(t, err)
	_, _, err = crashing.store.claim(t.Context(), "some event", crashing.config.receivers[0], time.Now())
	require.ErrorIs(t, err, errTaken)
	d, _, err := crashing.store.claim(t.Context(), "some event", crashing.config.receivers[0], time.Now().Add(2*lease))
	require.NoError(t, err)
	require.Equal(t, 2, d.Tries)
}

// TestMoved: moved immutable tags cause one message, until other tags move.
func TestMoved(t *testing.T) {
	b, in := newBench(t), newInbox(t)
	n := b.notifier(in.URL, onProblems, 0)
	one, two := reference.DigestOf([]byte("one")), reference.DigestOf([]byte("two"))
	kept := func(tag string, source reference.Digest) change.Change {
		return change.Change{Source: reference.MustRepository("quay.io/a/b"), Destination: reference.MustRepository("registry.example.com/a/b"),
			Tag: reference.MustTag(tag), From: one, Refused: source, At: time.Now()}
	}
	b.gone = []change.Change{kept("1.0", two)}
	b.ends()
	b.looks(n)
	events := in.take()
	require.Len(t, events, 1)
	require.Equal(t, kindMoved, events[0].Kind)
	require.Equal(t, []string{"quay.io/a/b:1.0@" + two.String()}, events[0].Moved)
	require.Equal(t, "Mirror "+mirror+": immutable tags of 1 image have moved", events[0].Title)
	require.Contains(t, events[0].Text, "- quay.io/a/b:1.0: the destination has "+one.String()+", the source "+two.String())

	b.ends()
	b.looks(n)
	require.Empty(t, in.take(), "the same ones again")
	b.gone = append(b.gone, kept("1.1", two))
	b.ends()
	b.looks(n)
	require.Len(t, in.take(), 1)
}

// TestManyFailures: of very many images that keep failing, none is new in the next run.
func TestManyFailures(t *testing.T) {
	b, in := newBench(t), newInbox(t)
	n := b.notifier(in.URL, onProblems, 0)
	var tags []string
	for i := range maxImages + 50 {
		tags = append(tags, fmt.Sprintf("%04d", i))
	}
	fails := func(new string) event {
		b.ends(append(tags, new)...)
		b.looks(n)
		events := in.take()
		require.Len(t, events, 1)
		require.Equal(t, len(tags)+1, events[0].Failing)
		return events[0]
	}
	require.Contains(t, fails("a").Text, fmt.Sprintf("%d of them new", len(tags)+1))
	again := fails("b")
	require.Equal(t, []string{"quay.io/a/b:b"}, again.New)
	require.Empty(t, again.Recovered, "it is not listed")
	require.Contains(t, again.Text, "1 of them new")
}
