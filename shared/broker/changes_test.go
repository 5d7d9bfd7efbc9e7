package broker_test

import (
	"context"
	"errors"
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

// TestChanges: each message is told once, in order, in as many requests as it takes.
func TestChanges(t *testing.T) {
	b := brokertest.Embedded(t)
	last := uint64(0)
	news := func() (told []string) {
		t.Helper()
		var err error
		last, err = b.Changes(t.Context(), broker.StreamName, "mirror.plan.>", last, func(m *jetstream.RawStreamMsg) error {
			require.Equal(t, "data", string(m.Data))
			told = append(told, m.Subject)
			return nil
		})
		require.NoError(t, err)
		return told
	}
	require.Empty(t, news())
	plan(t, b, 0, 2500)
	before := b.Conn.Stats().OutMsgs
	all := news()
	require.Len(t, all, 2500)
	require.Equal(t, address(0).Under(subject.Plan), all[0])
	require.Equal(t, address(2499).Under(subject.Plan), all[2499])
	require.EqualValues(t, 3, b.Conn.Stats().OutMsgs-before)
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
