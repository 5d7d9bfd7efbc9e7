package broker_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/subject"
)

// patience bounds every wait of a test.
const patience = 10 * time.Second

func address(token int) subject.Address {
	return subject.NewAddress("default", "r1", "quay.io", fmt.Sprint(token))
}

// messages returns the number of messages below root.
func messages(t *testing.T, b *broker.Broker, root string) int {
	info, err := b.Stream.Info(t.Context(), jetstream.WithSubjectFilter(root+".>"))
	require.NoError(t, err)
	return len(info.State.Subjects)
}

func TestScheduleFires(t *testing.T) {
	b := brokertest.Embedded(t)
	due := time.Now().Add(300 * time.Millisecond)
	m := broker.Scheduled(subject.Later, address(1), due, []byte("data"))
	m.Header.Set("Mirror-First-Seen", "yesterday")
	_, err := b.Publish(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, 1, messages(t, b, subject.Later))

	got, err := b.Consumer.Next(jetstream.FetchMaxWait(patience))
	require.NoError(t, err)
	require.Equal(t, address(1).Under(subject.Chunk), got.Subject())
	require.Equal(t, "data", string(got.Data()))
	require.Equal(t, "yesterday", got.Headers().Get("Mirror-First-Seen"))
	meta, err := got.Metadata()
	require.NoError(t, err)
	require.False(t, meta.Timestamp.Before(due), "fired %s early", due.Sub(meta.Timestamp))
	require.Zero(t, messages(t, b, subject.Later))
}

// TestFireDue: messages that are due are fired once, even after the server would fire them, and no
// others are.
func TestFireDue(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	began := time.Now()
	handover := began.Add(3 * broker.Handover) // a busy machine may take long until it is fired here
	msgs := []*nats.Msg{
		broker.Scheduled(subject.Plan, address(1), began.Add(time.Hour), []byte("later")),
		broker.Scheduled(subject.Plan, address(2), handover, []byte("due")),
	}
	first, err := b.PublishAll(t.Context(), msgs)
	require.NoError(t, err)
	b.FireDue(t.Context(), msgs, first, handover, began.Add(-broker.Handover))
	require.Zero(t, messages(t, b, subject.Chunk), "it is too late")
	for range 2 {
		b.FireDue(t.Context(), msgs, first, handover, time.Now())
		require.Equal(t, 1, messages(t, b, subject.Chunk))
		require.Equal(t, 1, messages(t, b, subject.Plan))
	}
	// The server fires another one after its own.
	_, err = b.Publish(t.Context(), broker.Scheduled(subject.Plan, address(3), handover.Add(time.Millisecond), nil))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return messages(t, b, subject.Chunk) > 1 }, patience, 10*time.Millisecond)
	require.Equal(t, 2, messages(t, b, subject.Chunk))
	got, err := b.Consumer.Next(jetstream.FetchMaxWait(patience))
	require.NoError(t, err)
	require.Equal(t, "due", string(got.Data()))
	require.Equal(t, address(2).Under(subject.Chunk), got.Subject())
}

func TestDue(t *testing.T) {
	due := time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.FixedZone("elsewhere", 3600))
	got, target, ok := broker.Due(broker.Scheduled(subject.Plan, address(1), due, nil).Header)
	require.True(t, ok)
	require.True(t, due.Equal(got), got)
	require.Equal(t, address(1).Under(subject.Chunk), target)

	for _, schedule := range []string{"", "@every 1s", "@at tomorrow", due.Format(time.RFC3339Nano)} {
		_, _, ok = broker.Due(nats.Header{"Nats-Schedule": {schedule}})
		require.False(t, ok, schedule)
	}
}

func TestPublishAll(t *testing.T) {
	const total = 2345
	b := brokertest.Embedded(t)
	before, err := b.Publish(t.Context(), nats.NewMsg(address(0).Under(subject.Chunk)))
	require.NoError(t, err)
	var msgs []*nats.Msg
	for i := range total {
		msgs = append(msgs, broker.Scheduled(subject.Plan, address(i), time.Now().Add(time.Hour), []byte(fmt.Sprint(i))))
	}
	first, err := b.PublishAll(t.Context(), msgs)
	require.NoError(t, err)
	require.Equal(t, before+1, first)
	require.Equal(t, total, messages(t, b, subject.Plan))
	last, err := b.Stream.GetMsg(t.Context(), first+total-1)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(total-1), string(last.Data))
}

func TestABatchIsAllOrNothing(t *testing.T) {
	b := brokertest.Embedded(t)
	taken := address(2).Under(subject.Chunk)
	_, err := b.Publish(t.Context(), nats.NewMsg(taken))
	require.NoError(t, err)
	for position := range 3 {
		msgs := []*nats.Msg{
			nats.NewMsg(address(10).Under(subject.Chunk)),
			nats.NewMsg(address(11).Under(subject.Chunk)),
			nats.NewMsg(address(12).Under(subject.Chunk)),
		}
		msgs[position] = broker.ExpectLast(nats.NewMsg(taken), 0)
		_, err = b.PublishAll(t.Context(), msgs)
		require.ErrorIs(t, err, broker.ErrConflict, position)
		require.Equal(t, 1, messages(t, b, subject.Chunk))
	}
}

func TestFire(t *testing.T) {
	b := brokertest.Embedded(t)
	m := broker.Scheduled(subject.Plan, address(1), time.Now().Add(time.Hour), []byte("data"))
	m.Header.Set("Mirror-First-Seen", "yesterday")
	_, err := b.PublishAll(t.Context(), []*nats.Msg{m, broker.Scheduled(subject.Plan, address(2), time.Now().Add(time.Hour), nil)})
	require.NoError(t, err)
	schedule, err := b.Stream.GetLastMsgForSubject(t.Context(), m.Subject)
	require.NoError(t, err)

	require.NoError(t, b.Fire(t.Context(), schedule))
	got, err := b.Stream.GetLastMsgForSubject(t.Context(), address(1).Under(subject.Chunk))
	require.NoError(t, err)
	require.Equal(t, "data", string(got.Data))
	require.Equal(t, "yesterday", got.Header.Get("Mirror-First-Seen"))
	require.Empty(t, got.Header.Get("Nats-Schedule"))
	_, err = b.Stream.GetLastMsgForSubject(t.Context(), m.Subject)
	require.ErrorIs(t, err, jetstream.ErrMsgNotFound)
	require.Equal(t, 1, messages(t, b, subject.Plan), "the other one stays")

	require.ErrorIs(t, b.Fire(t.Context(), schedule), broker.ErrConflict)
	require.Equal(t, 1, messages(t, b, subject.Chunk))
	fired, err := b.Consumer.Next()
	require.NoError(t, err)
	require.Equal(t, got.Subject, fired.Subject())
	require.ErrorIs(t, b.Fire(t.Context(), got), broker.ErrForeignStream)
}

func TestOverdueSchedulesFireAfterARestart(t *testing.T) {
	const total = 20
	// publish publishes chunks that become due while the broker is stopped, unless that takes longer.
	publish := func(dueIn time.Duration) (c broker.Config, due time.Time) {
		c = broker.Config{DataDir: t.TempDir(), Replicas: 1}
		b := brokertest.Open(t, c)
		due = time.Now().Add(dueIn)
		var msgs []*nats.Msg
		for i := range total {
			msgs = append(msgs, broker.Scheduled(subject.Plan, address(i), due, nil))
		}
		_, err := b.PublishAll(t.Context(), msgs)
		require.NoError(t, err)
		b.Close()
		return c, due
	}
	dueIn := 500 * time.Millisecond
	c, due := publish(dueIn)
	for time.Now().After(due) {
		dueIn *= 2
		c, due = publish(dueIn)
	}
	require.Eventually(t, func() bool { return time.Now().After(due) }, 2*dueIn, 10*time.Millisecond)

	b := brokertest.Open(t, c)
	require.Eventually(t, func() bool { return messages(t, b, subject.Chunk) == total }, patience, 10*time.Millisecond)
	require.Zero(t, messages(t, b, subject.Plan))
}

// TestFireDoesNotWait: a schedule is not fired after a wait for a leader, because that leader may fire it.
func TestFireDoesNotWait(t *testing.T) {
	t.Parallel()
	b := brokertest.Embedded(t)
	m := broker.Scheduled(subject.Plan, address(1), time.Now().Add(time.Hour), nil)
	sequence, err := b.Publish(t.Context(), m)
	require.NoError(t, err)
	require.NoError(t, b.JS.DeleteStream(t.Context(), broker.StreamName))
	before := b.Conn.Stats().OutMsgs
	err = b.Fire(t.Context(), &jetstream.RawStreamMsg{Subject: m.Subject, Sequence: sequence, Header: m.Header})
	require.ErrorIs(t, err, jetstream.ErrNoStreamResponse)
	require.EqualValues(t, 1+jetstream.DefaultPubRetryAttempts, b.Conn.Stats().OutMsgs-before)
}
