package broker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestAnswered: a request without an answer is sent again, a few times. An answer is taken as
// it is, and a cancelled context ends the wait.
func TestAnswered(t *testing.T) {
	refused := errors.New("no")
	over, end := context.WithCancel(t.Context())
	end()
	for name, c := range map[string]struct {
		ctx     context.Context
		answers []error // the last one for ever
		err     error
		asked   int
	}{
		"at once":      {t.Context(), []error{nil}, nil, 1},
		"at last":      {t.Context(), []error{context.DeadlineExceeded, context.DeadlineExceeded, nil}, nil, 3},
		"never":        {t.Context(), []error{context.DeadlineExceeded}, context.DeadlineExceeded, 3},
		"refused":      {t.Context(), []error{refused}, refused, 1},
		"no responder": {over, []error{context.DeadlineExceeded}, context.DeadlineExceeded, 1},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			err := broker.Answered(c.ctx, func() error {
				asked++
				return c.answers[min(asked, len(c.answers))-1]
			})
			require.ErrorIs(t, err, c.err)
			require.Equal(t, c.asked, asked)
		})
	}
}

func answer(status, code int, text string) error {
	return &jetstream.APIError{Code: status, ErrorCode: jetstream.ErrorCode(code), Description: text}
}

// TestUnanswered: an error for which the broker is waited for is ErrUnreachable. The texts are those of
// nats-server: it places no stream on a server that has just been restarted.
func TestUnanswered(t *testing.T) {
	for _, test := range []struct {
		err         error
		unreachable bool
	}{
		{context.DeadlineExceeded, true},
		{answer(503, 10008, "JetStream system temporarily unavailable"), true},
		{answer(400, 10005, "no suitable peers for placement, peer offline"), true},
		{answer(400, 10005, "no suitable peers for placement"), false},
		{answer(400, 10005, "no suitable peers for placement, insufficient storage"), false},
		{answer(500, 10074, "replicas > 1 not supported in non-clustered mode"), false},
	} {
		err := broker.Unanswered(test.err)
		require.ErrorIs(t, err, test.err)
		require.Equal(t, test.unreachable, errors.Is(err, broker.ErrUnreachable), test.err)
	}
}

// TestRepeated: a stream is created when all servers have reported their states, and a message is stored
// when a server takes it, and not later than that. Other errors are returned at once.
func TestRepeated(t *testing.T) {
	offline, few := answer(400, 10005, "no suitable peers for placement, peer offline"), answer(400, 10005, "no suitable peers for placement")
	untaken := jetstream.ErrNoStreamResponse
	for name, test := range map[string]struct {
		repeat    func(context.Context, func() (int, error)) (int, error)
		cancelled bool
		first     error
		after     time.Duration // until then, the error is the first one
		then, err error
		took      time.Duration
	}{
		"placed at once":      {repeat: broker.Placed},
		"placed soon":         {repeat: broker.Placed, first: offline, after: 4 * time.Second, took: 4 * time.Second},
		"never placed":        {repeat: broker.Placed, first: offline, after: time.Hour, err: offline, took: broker.Placeable},
		"too few servers":     {repeat: broker.Placed, then: few, err: few},
		"placement cancelled": {repeat: broker.Placed, cancelled: true, first: offline, after: time.Hour, err: offline},
		"never taken":         {repeat: broker.Responded, first: untaken, after: time.Hour, err: untaken, took: broker.RequestTimeout},
		"cancelled":           {repeat: broker.Responded, cancelled: true, first: untaken, after: time.Hour, err: untaken},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if test.cancelled {
					cancel()
				}
				start := time.Now()
				made, err := test.repeat(ctx, func() (int, error) {
					if time.Since(start) < test.after {
						return 0, test.first
					}
					return 1, test.then
				})
				require.Equal(t, test.err, err)
				require.True(t, err != nil || made == 1)
				require.Equal(t, test.took, time.Since(start))
			})
		})
	}
}

// TestNoAnswer: a request may succeed soon if there was no answer to it, or if the stream has no leader.
// After a refusal, or if the disk is full, it fails again.
func TestNoAnswer(t *testing.T) {
	for _, test := range []struct {
		err      error
		noAnswer bool
	}{
		{context.DeadlineExceeded, true},
		{nats.ErrTimeout, true},
		{nats.ErrNoResponders, true},
		{jetstream.ErrNoStreamResponse, true},
		{answer(503, 10008, "JetStream system temporarily unavailable"), true},
		{answer(503, 10163, "expected last sequence per subject temporarily unavailable"), true},
		{answer(503, 10023, "insufficient resources"), false},
		{answer(503, 10077, "write: no space left on device"), false},
		{fmt.Errorf("%w: %w", broker.ErrFull, context.DeadlineExceeded), false},
		{jetstream.ErrMsgNotFound, false},
		{broker.ErrConflict, false},
	} {
		require.Equal(t, test.noAnswer, broker.NoAnswer(fmt.Errorf("reading: %w", test.err)), test.err)
	}
}

// TestNoServerYet: what is stored waits until a server takes it, for requestTimeout at most. A batch is
// stored once.
func TestNoServerYet(t *testing.T) {
	t.Parallel()
	server := brokertest.Start(t)
	other := brokertest.Open(t, server.Config())
	config := jetstream.StreamConfig{Name: "late", Subjects: []string{"late.>"}, AllowAtomicPublish: true}
	for name, test := range map[string]struct {
		store func(*broker.Broker, jetstream.KeyValue) error
		// messages is how many reach the stream or the bucket.
		messages uint64
	}{
		"PublishMsg": {func(b *broker.Broker, _ jetstream.KeyValue) error {
			_, err := b.JS.PublishMsg(t.Context(), nats.NewMsg("late.a"))
			return err
		}, 1},
		"PublishBatch": {func(b *broker.Broker, _ jetstream.KeyValue) error {
			_, err := b.PublishBatch(t.Context(), []*nats.Msg{nats.NewMsg("late.a"), nats.NewMsg("late.b")})
			return err
		}, 2},
		"Put": {func(_ *broker.Broker, kv jetstream.KeyValue) error {
			_, err := kv.Put(t.Context(), "k", nil)
			return err
		}, 1},
		"Create": {func(_ *broker.Broker, kv jetstream.KeyValue) error {
			_, err := kv.Create(t.Context(), "k", nil)
			return err
		}, 1},
		"Delete": {func(_ *broker.Broker, kv jetstream.KeyValue) error { return kv.Delete(t.Context(), "k") }, 1},
		"Purge":  {func(_ *broker.Broker, kv jetstream.KeyValue) error { return kv.Purge(t.Context(), "k") }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := brokertest.Open(t, server.Config())
			kv, err := b.Bucket(t.Context(), jetstream.KeyValueConfig{Bucket: "late"})
			require.NoError(t, err)
			require.NoError(t, other.JS.DeleteKeyValue(t.Context(), "late"))
			before := b.Conn.Stats().OutMsgs
			done := make(chan error)
			go func() { done <- test.store(b, kv) }()
			// nats.go itself gives up after three.
			require.Eventually(t, func() bool { return b.Conn.Stats().OutMsgs > before+3 }, time.Minute, time.Millisecond)
			_, err = other.JS.CreateStream(t.Context(), config)
			require.NoError(t, err)
			defer func() { require.NoError(t, other.JS.DeleteStream(t.Context(), "late")) }()
			_, err = other.JS.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "late"})
			require.NoError(t, err)
			require.NoError(t, <-done)
			var messages uint64
			for _, stream := range []string{"late", "KV_late"} {
				s, err := other.JS.Stream(t.Context(), stream)
				require.NoError(t, err)
				messages += s.CachedInfo().State.Msgs
			}
			require.Equal(t, test.messages, messages)
		})
	}
}
