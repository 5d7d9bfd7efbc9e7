package broker_test

import (
	"context"
	"errors"
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

// plan publishes schedules with these tokens.
func plan(t *testing.T, b *broker.Broker, from, to int) {
	t.Helper()
	var msgs []*nats.Msg
	for token := from; token < to; token++ {
		msgs = append(msgs, broker.Scheduled(subject.Plan, address(token), time.Now().Add(time.Hour), []byte("data")))
	}
	_, err := b.PublishAll(t.Context(), msgs)
	require.NoError(t, err)
}

func TestCount(t *testing.T) {
	b := brokertest.Embedded(t)
	counts := func(filter string, want int) {
		t.Helper()
		n, err := b.Count(t.Context(), filter)
		require.NoError(t, err)
		require.Equal(t, want, n, filter)
	}
	counts("mirror.plan.>", 0)
	plan(t, b, 0, 1500)
	_, err := b.Publish(t.Context(), nats.NewMsg(address(1).Under(subject.Chunk)))
	require.NoError(t, err)
	before := b.Conn.Stats()
	counts("mirror.plan.>", 1500)
	require.Less(t, b.Conn.Stats().InBytes-before.InBytes, uint64(4096))
	counts(subject.OfRun("default", "r1"), 1501)
	counts(subject.OfRun("default", "r2"), 0)
	require.NoError(t, b.Stream.Purge(t.Context(), jetstream.WithPurgeSubject("mirror.plan.>")))
	counts(subject.OfRun("default", "r1"), 1)

	require.NoError(t, b.JS.DeleteStream(t.Context(), broker.StreamName))
	_, err = b.Count(t.Context(), "mirror.plan.>")
	var refused *jetstream.APIError
	require.ErrorAs(t, err, &refused)
}

// TestChanges: each message is read once, in order, with few requests.
func TestChanges(t *testing.T) {
	b := brokertest.Embedded(t)
	last := uint64(0)
	news := func() (seen []string) {
		t.Helper()
		var err error
		last, err = b.Changes(t.Context(), broker.StreamName, "mirror.plan.>", last, func(m *jetstream.RawStreamMsg) error {
			require.Equal(t, "data", string(m.Data))
			seen = append(seen, m.Subject)
			return nil
		})
		require.NoError(t, err)
		return seen
	}
	require.Empty(t, news())
	plan(t, b, 0, 2500)
	before := b.Conn.Stats().OutMsgs
	all := news()
	require.Len(t, all, 2500)
	require.Equal(t, address(0).Under(subject.Plan), all[0])
	require.Equal(t, address(2499).Under(subject.Plan), all[2499])
	require.EqualValues(t, 2*3+1, b.Conn.Stats().OutMsgs-before)
	require.Empty(t, news())
	_, err := b.Publish(t.Context(), nats.NewMsg(address(1).Under(subject.Chunk)))
	require.NoError(t, err)
	plan(t, b, 2500, 2502)
	require.Equal(t, []string{address(2500).Under(subject.Plan), address(2501).Under(subject.Plan)}, news())

	// What could not be read is read again.
	bad := errors.New("unreadable")
	seen := 0
	at, err := b.Changes(t.Context(), broker.StreamName, "mirror.plan.>", 0, func(m *jetstream.RawStreamMsg) error {
		if seen++; seen == 3 {
			return bad
		}
		return nil
	})
	require.ErrorIs(t, err, bad)
	require.EqualValues(t, 2, at)
	ended, end := context.WithCancel(t.Context())
	end()
	at, err = b.Changes(ended, broker.StreamName, "mirror.plan.>", at, func(*jetstream.RawStreamMsg) error { return nil })
	require.Error(t, err)
	require.EqualValues(t, 2, at)
	_, err = b.Changes(t.Context(), "none", "mirror.plan.>", 0, func(*jetstream.RawStreamMsg) error { return nil })
	require.Error(t, err)
}

// TestAliens: any client that may publish can store a message whose header looks like an answer of
// the broker, or is invalid. The other messages are still read.
func TestAliens(t *testing.T) {
	server := brokertest.Start(t)
	b := brokertest.Open(t, server.Config())
	headers := []string{
		"", "garbage\r\n", "NATS/1.0\r\ngarbage\r\n\r\n", "NATS/1.0\r\n: x\r\n\r\n",
		"NATS/1.0 404 No Messages\r\n\r\n", "NATS/1.0\r\nStatus: 204\r\nDescription: EOB\r\n\r\n", "NATS/1.0 503\r\n\r\n",
		"NATS/1.0\r\nNats-Num-Pending: 0\r\nNats-Sequence: 7000\r\nNats-Subject: mirror.other\r\nNats-Time-Stamp: never\r\nNats-Stream: X\r\n\r\n",
		"NATS/1.0\r\nA: b",
	}
	var want []string
	for i, header := range headers {
		for _, data := range []string{"", "data"} {
			subj := fmt.Sprintf("mirror.failed.%d.%s", i, data+"x")
			server.Alien(t, subj, header, []byte(data))
			want = append(want, subj+" "+data)
		}
		subj := fmt.Sprintf("mirror.failed.%d.after", i)
		m := nats.NewMsg(subj)
		m.Data = []byte("ours")
		_, err := b.Publish(t.Context(), m)
		require.NoError(t, err)
		want = append(want, subj+" ours")
	}
	server.Alien(t, "mirror.failed.*", "", nil)
	want = append(want, "mirror.failed.* ")
	server.Alien(t, "mirror.failed.\x1b[2J\xff", "", nil)
	want = append(want, "mirror.failed.\x1b[2J\xff ")

	var got []string
	var sequences []uint64
	last, err := b.Changes(t.Context(), broker.StreamName, "mirror.failed.>", 0, func(m *jetstream.RawStreamMsg) error {
		got = append(got, m.Subject+" "+string(m.Data))
		sequences = append(sequences, m.Sequence)
		require.WithinDuration(t, time.Now(), m.Time, time.Minute)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.EqualValues(t, len(want), last)
	for i, sequence := range sequences {
		require.EqualValues(t, i+1, sequence)
	}
	for _, subj := range []string{"mirror.failed.1.datax", "mirror.failed.2.datax", "mirror.failed.4.datax", "mirror.failed.7.datax"} {
		m, err := b.Last(t.Context(), broker.StreamName, subj)
		require.NoError(t, err)
		require.Equal(t, subj, m.Subject)
		require.Equal(t, "data", string(m.Data))
	}
	_, err = b.Last(t.Context(), broker.StreamName, "mirror.failed.none")
	require.ErrorIs(t, err, jetstream.ErrMsgNotFound)
}

func TestDelete(t *testing.T) {
	b := brokertest.Embedded(t)
	plan(t, b, 0, 3)
	require.NoError(t, b.Delete(t.Context(), 2))
	require.ErrorIs(t, b.Delete(t.Context(), 2), jetstream.ErrMsgNotFound)
	require.ErrorIs(t, b.Delete(t.Context(), 9), jetstream.ErrMsgNotFound)
	n, err := b.Count(t.Context(), "mirror.plan.>")
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.NoError(t, b.JS.DeleteStream(t.Context(), broker.StreamName))
	err = b.Delete(t.Context(), 1)
	require.Error(t, err)
	require.NotErrorIs(t, err, jetstream.ErrMsgNotFound)
}

// TestEmbeddedAliens: a message whose header looks like an answer of the embedded broker is read
// unchanged.
func TestEmbeddedAliens(t *testing.T) {
	b := brokertest.Embedded(t)
	for i, header := range []nats.Header{
		{"A": {"b"}}, {"Status": {"404"}, "Description": {"Message Not Found"}}, {"Status": {"503"}},
		{jetstream.StreamHeader: {"X"}, jetstream.SubjectHeader: {"mirror.other"}, jetstream.SequenceHeader: {"7000"}, jetstream.TimeStampHeaer: {"never"}},
	} {
		m := nats.NewMsg(fmt.Sprintf("mirror.failed.%d", i))
		m.Header, m.Data = header, []byte("data")
		ack, err := b.JS.PublishMsg(t.Context(), m)
		require.NoError(t, err)
		for _, read := range []func() (*jetstream.RawStreamMsg, error){
			func() (*jetstream.RawStreamMsg, error) { return b.Last(t.Context(), broker.StreamName, m.Subject) },
			func() (*jetstream.RawStreamMsg, error) {
				return b.Next(t.Context(), broker.StreamName, "mirror.failed.>", ack.Sequence)
			},
		} {
			got, err := read()
			require.NoError(t, err)
			require.Equal(t, m.Subject, got.Subject)
			require.Equal(t, ack.Sequence, got.Sequence)
			require.Equal(t, header, got.Header)
			require.Equal(t, "data", string(got.Data))
			require.WithinDuration(t, time.Now(), got.Time, time.Minute)
		}
	}
	_, err := b.Last(t.Context(), broker.StreamName, "mirror.failed.none")
	require.ErrorIs(t, err, jetstream.ErrMsgNotFound)
	_, err = b.Last(t.Context(), "none", "mirror.failed.none")
	require.Error(t, err)
	require.NotErrorIs(t, err, jetstream.ErrMsgNotFound)
}

// TestChangesOverASlowLink: the time between two messages is bounded, and not that of all of them, which
// depends on the link.
func TestChangesOverASlowLink(t *testing.T) {
	t.Parallel()
	way := brokertest.Start(t).NewWay(t)
	b := brokertest.Open(t, way.Config())
	b.Conn.Opts.Timeout = time.Second
	const messages = 20
	for n := range messages {
		m := nats.NewMsg(address(n).Under(subject.Plan))
		m.Data = make([]byte, 32<<10)
		_, err := b.Publish(t.Context(), m)
		require.NoError(t, err)
	}
	way.Slow.Store(true)
	seen := 0
	began := time.Now()
	_, err := b.Changes(t.Context(), broker.StreamName, "mirror.plan.>", 0, func(*jetstream.RawStreamMsg) error { seen++; return nil })
	require.NoError(t, err)
	require.Equal(t, messages, seen)
	require.Greater(t, time.Since(began), b.Conn.Opts.Timeout)
}
