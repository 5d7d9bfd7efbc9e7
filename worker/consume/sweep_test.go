package consume

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// schedule puts a remainder and a planned chunk into the stream, due in an hour.
func schedule(t *testing.T, b *harness) {
	t.Helper()
	due := time.Now().Add(time.Hour)
	require.NoError(t, b.runs.Put(t.Context(), run.Run{Name: name, ID: runID, Chunks: 2, Started: time.Now(), FirstDue: due, Published: true}))
	require.NoError(t, b.runs.Record(t.Context(), b.address("000002-7"), run.Progress{State: run.Snoozed, Due: due}))
	data, err := b.chunk().Encode()
	require.NoError(t, err)
	for root, token := range map[string]string{subject.Plan: "000001", subject.Later: "000002-7"} {
		_, err := b.Publish(t.Context(), broker.Scheduled(root, b.address(token), due, data))
		require.NoError(t, err)
	}
}

// TestSweep: overdue schedules are fired once, although several workers sweep at once;
// others are not fired.
func TestSweep(t *testing.T) {
	b := embedded(t)
	schedule(t, b)
	one, two := b.consumer(t), b.consumer(t)
	soon := time.Now().Add(time.Hour + overdue/2) // not late enough
	require.NoError(t, one.sweepOnce(t.Context(), soon))
	require.Empty(t, b.subjects(t, subject.Chunk+".>"))
	late := time.Now().Add(time.Hour + 2*overdue)
	suspects, err := one.runs.Overdue(t.Context(), late)
	require.NoError(t, err)
	require.Len(t, suspects, 2)
	settle := func(c *Consumer, subj string, now time.Time) error {
		m, err := b.Last(t.Context(), broker.StreamName, subj)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return c.settle(t.Context(), m, now)
	}
	for _, s := range suspects { // the time of the schedule decides
		require.NoError(t, settle(one, s, soon))
	}
	require.Empty(t, b.subjects(t, subject.Chunk+".>"))
	var group errgroup.Group
	for _, c := range []*Consumer{one, two, b.consumer(t), b.consumer(t)} {
		group.Go(func() error { return c.sweepOnce(t.Context(), late) })
		for _, s := range suspects {
			group.Go(func() error { return settle(c, s, late) })
		}
	}
	require.NoError(t, group.Wait())
	info, err := b.Stream.Info(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, info.State.Msgs)
	require.ElementsMatch(t, []string{b.address("000001").Under(subject.Chunk), b.address("000002-7").Under(subject.Chunk)},
		b.subjects(t, subject.OfRun(name, runID)))
}

// TestSweepGoesOn: a schedule that cannot be fired does not delay the others.
func TestSweepGoesOn(t *testing.T) {
	b := embedded(t)
	schedule(t, b)
	bad := broker.Scheduled(subject.Later, b.address("000000-1"), time.Now().Add(time.Hour), []byte("x"))
	bad.Header.Set("Nats-Schedule-Target", "mirror.failed.elsewhere")
	_, err := b.Publish(t.Context(), bad)
	require.NoError(t, err)
	require.NoError(t, b.consumer(t).sweepOnce(t.Context(), time.Now().Add(2*time.Hour)))
	require.Len(t, b.subjects(t, subject.Chunk+".>"), 2)
	require.Empty(t, b.subjects(t, subject.Later+".>"))
}

// TestStraysAreSwept: foreign messages are deleted, with their bytes in the log, and no
// other message is.
func TestStraysAreSwept(t *testing.T) {
	server := brokertest.Start(t)
	b := newHarness(t, brokertest.Open(t, server.Config()))
	var log bytes.Buffer
	b.log = slog.New(slog.NewTextHandler(&log, nil))
	schedule(t, b)
	newer := broker.Scheduled(subject.Plan, subject.NewAddress("other", runID, "quay.io", "000001"), time.Now(), []byte(`{"version":99}`))
	newer.Header.Set("Nats-Schedule", "@every 1h") // as in a later version
	_, err := b.Publish(t.Context(), newer)
	require.NoError(t, err)
	before := b.subjects(t, "mirror.>")
	planned := b.address("000001").Under(subject.Plan) // a schedule, replaced by a foreign message
	strays := []string{
		"mirror.plan", "mirror.later", "mirror.chunk", "mirror.failed", "mirror.plan.foo", "mirror.plan.*", "mirror.later.>", "mirror.later.\xff.x",
		"mirror.plan.default." + runID + ".x", "mirror.plan.default." + runID + ".x.1.2", "mirror.later.other.r1.x.1", "mirror.plan.NO.r1.x.1", planned,
	}
	for i, stray := range strays {
		server.Alien(t, stray, []string{"", "NATS/1.0\r\nnone\r\n\r\n", "NATS/1.0\r\nStatus: 404\r\n\r\n"}[i%3], []byte("\x1b[31m stray"))
	}
	server.Alien(t, "mirror.unknown.x", "", nil) // which a later version may know
	c := b.consumer(t)
	require.NoError(t, c.sweepOnce(t.Context(), time.Now().Add(2*time.Minute)))
	require.Equal(t, len(strays), strings.Count(log.String(), "deleted a foreign message among the schedules"), log.String())
	require.Equal(t, len(strays), strings.Count(log.String(), `\\x1b[31m stray`))
	require.NotContains(t, log.String(), "\x1b")
	require.ElementsMatch(t, append(before, "mirror.unknown.x"), b.subjects(t, "mirror.>"))

	// The foreign message has replaced the schedule in the server.
	require.NoError(t, c.sweepOnce(t.Context(), time.Now().Add(2*time.Hour)))
	require.Len(t, b.subjects(t, subject.OfRunUnder(subject.Chunk, name, runID)), 2)
}

// purge deletes the messages of the run, as a user of the broker might.
func (b *harness) purge(t *testing.T) {
	t.Helper()
	require.NoError(t, b.Stream.Purge(t.Context(), jetstream.WithPurgeSubject(subject.OfRun(name, runID))))
}

// TestPurgedUnderAWorker: a worker whose message was purged still publishes its remainder. A chunk
// that no worker had is lost, and the log names it.
func TestPurgedUnderAWorker(t *testing.T) {
	t.Parallel()
	b := embedded(t)
	b.push(t, "1", "2")
	said := b.logged()
	gate := make(chan struct{})
	remove := b.from.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref("1")), Gate: gate, Times: 1, Status: 429,
		Header: http.Header{"Retry-After": {"1"}}})
	defer remove()
	begun := b.from.Notify(heads)
	tracker := b.planEach(t, "1", "2")
	c := b.consumer(t)
	c.places = semaphore.NewWeighted(1) // the other chunk stays at the broker
	start(t, c)
	<-begun
	// Until the worker has recorded that it has the chunk, the chunk would be lost, too.
	require.Eventually(t, func() bool {
		st, err := tracker.Status(t.Context())
		return err == nil && st.Chunks.Running == 1
	}, deadline, often)
	b.purge(t)
	close(gate)
	require.Eventually(t, func() bool {
		st, err := tracker.Status(t.Context())
		return err == nil && st.State == run.StateLost && st.Chunks == run.Chunks{Total: 2, Done: 1, Lost: 1}
	}, deadline, often)
	b.mirrored(t, "1")

	for range 2 {
		require.NoError(t, c.logLost(t.Context()))
	}
	require.Equal(t, 1, strings.Count(said.String(), "chunks of a run are lost"), said.String())
	require.Contains(t, said.String(), "run="+runID+" lost=1 chunks=2")
}

// TestNothingIsSaidToBeLost: neither runs that are done nor runs that continue are reported as
// lost.
func TestNothingIsSaidToBeLost(t *testing.T) {
	b := embedded(t)
	b.push(t, "1")
	said := b.logged()
	tracker := b.plan(t, b.chunk())
	c := b.consumer(t)
	require.NoError(t, c.logLost(t.Context()))
	stop := start(t, c)
	over(t, tracker)
	stop()
	require.NoError(t, c.logLost(t.Context()))
	require.Empty(t, said.String())
}

// TestPostponedAndLost: the status notices the loss of a message that waits for a newer
// worker.
func TestPostponedAndLost(t *testing.T) {
	b := embedded(t)
	tracker := b.plan(t, message.Chunk{})
	b.purge(t)
	b.send(t, b.address("000001").Under(subject.Chunk), []byte(`{"version":1000}`))
	c := b.consumer(t)
	c.take(t.Context(), b.receive(t), func() {})
	st, err := tracker.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, run.StateSnoozed, st.State)
	require.WithinDuration(t, time.Now().Add(newerRetry), *st.NextDue, newerRetry/2)
	b.purge(t)
	st, err = tracker.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, run.StateLost, st.State)
}
