package broker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
)

// somebody is an operator who sets up the broker by hand.
func somebody(t *testing.T, s *brokertest.Server) jetstream.JetStream {
	conn, err := nats.Connect(s.URL())
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	return js
}

// ours returns the stream's configuration as Ensure creates it.
func ours(t *testing.T, s *brokertest.Server) jetstream.StreamConfig {
	b := brokertest.Open(t, s.Config())
	c := b.Stream.CachedInfo().Config
	require.NoError(t, b.JS.DeleteStream(t.Context(), broker.StreamName))
	b.Close()
	return c
}

// create creates a stream. After a deletion, nats-server removes the files a little later, and may
// refuse a stream with the same name until then.
func create(t *testing.T, js jetstream.JetStream, c jetstream.StreamConfig) {
	t.Helper()
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		_, err := js.CreateStream(context.Background(), c)
		assert.NoError(t, err)
	}, 10*time.Second, 10*time.Millisecond)
}

func TestStreamOfSomebodyElse(t *testing.T) {
	s := brokertest.Start(t)
	js := somebody(t, s)
	our := ours(t, s)
	for says, change := range map[string]func(*jetstream.StreamConfig){
		"remove MaxBytes":          func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 30 },
		"remove MaxMsgs":           func(c *jetstream.StreamConfig) { c.MaxMsgs = 10 },
		"remove MaxMsgsPerSubject": func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 },
		"remove MaxAge":            func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"MaxBytes, MaxAge":         func(c *jetstream.StreamConfig) { c.MaxBytes, c.MaxAge = 1<<30, time.Hour },
		"a work queue":             func(c *jetstream.StreamConfig) { c.Retention = jetstream.LimitsPolicy },
		"in files":                 func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"of mirror.>":              func(c *jetstream.StreamConfig) { c.Subjects = []string{"mirror.chunk.>"} },
		"discards old":             func(c *jetstream.StreamConfig) { c.Discard, c.AllowMsgSchedules = jetstream.DiscardNew, false },
		"stream OTHER has subjects below mirror.>": func(c *jetstream.StreamConfig) {
			c.Name, c.Subjects = "OTHER", []string{"mirror.chunk.>"}
		},
	} {
		c := our
		change(&c)
		create(t, js, c)
		err := fails(t, s.Config())
		require.ErrorIs(t, err, broker.ErrForeignStream, says)
		require.ErrorContains(t, err, says)
		require.NoError(t, js.DeleteStream(t.Context(), c.Name))
	}
}

func TestStreamIsCompleted(t *testing.T) {
	s := brokertest.Start(t)
	js := somebody(t, s)
	c := ours(t, s)
	c.AllowMsgSchedules, c.AllowAtomicPublish, c.AllowDirect = false, false, false
	c.Metadata = map[string]string{"owner": "ops"}
	create(t, js, c)

	got := brokertest.Open(t, s.Config()).Stream.CachedInfo().Config
	require.True(t, got.AllowMsgSchedules && got.AllowAtomicPublish && got.AllowDirect)
	require.Equal(t, "ops", got.Metadata["owner"])
}

func TestConsumerOfSomebodyElse(t *testing.T) {
	s := brokertest.Start(t)
	js := somebody(t, s)
	b := brokertest.Open(t, s.Config())
	our := b.Consumer.CachedInfo().Config
	require.NoError(t, b.Stream.DeleteConsumer(t.Context(), broker.ConsumerName))
	for says, change := range map[string]func(*jetstream.ConsumerConfig){
		"no MaxDeliver":        func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 5 },
		"read mirror.chunk.>":  func(c *jetstream.ConsumerConfig) { c.FilterSubject = "mirror.chunk.default.>" },
		"another consumer":     func(c *jetstream.ConsumerConfig) { c.Name, c.Durable = "other", "other" },
		"another consumer of ": func(c *jetstream.ConsumerConfig) { c.Name, c.Durable, c.FilterSubject = "all", "all", "" },
	} {
		c := our
		change(&c)
		_, err := js.CreateConsumer(t.Context(), broker.StreamName, c)
		require.NoError(t, err, says)
		err = fails(t, s.Config())
		require.ErrorIs(t, err, broker.ErrForeignStream, says)
		require.ErrorContains(t, err, says)
		require.NoError(t, js.DeleteConsumer(t.Context(), broker.StreamName, c.Durable))
	}
	push := jetstream.ConsumerConfig{
		Durable: broker.ConsumerName, FilterSubject: our.FilterSubject, AckPolicy: our.AckPolicy, DeliverSubject: "elsewhere",
	}
	_, err := js.CreatePushConsumer(t.Context(), broker.StreamName, push)
	require.NoError(t, err)
	require.ErrorContains(t, fails(t, s.Config()), "must be pulled")
}

// TestFirstStart: planner and workers can start at the same time with a new broker.
func TestFirstStart(t *testing.T) {
	s := brokertest.Start(t)
	var all errgroup.Group
	for range 8 {
		all.Go(func() error {
			b := brokertest.Open(t, s.Config())
			_, err := b.Bucket(t.Context(), jetstream.KeyValueConfig{Bucket: "mirror_test", TTL: time.Hour})
			return err
		})
	}
	require.NoError(t, all.Wait())
}

// TestDeletedWhileItIsCreated: if something is deleted at any moment of Ensure, the next Ensure
// creates it again.
func TestDeletedWhileItIsCreated(t *testing.T) {
	for name, remove := range map[string]func(*broker.Broker) error{
		"stream": func(b *broker.Broker) error { return b.JS.DeleteStream(t.Context(), broker.StreamName) },
		"consumer": func(b *broker.Broker) error {
			return b.JS.DeleteConsumer(t.Context(), broker.StreamName, broker.ConsumerName)
		},
		"other stream": func(b *broker.Broker) error { return b.JS.DeleteStream(t.Context(), "other") },
		"bucket":       func(b *broker.Broker) error { return b.JS.DeleteKeyValue(t.Context(), "bucket") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := brokertest.Embedded(t)
			_, err := b.OpenStream(t.Context(), jetstream.StreamConfig{Name: "other", Subjects: []string{"other"}})
			require.NoError(t, err)
			_, err = b.Bucket(t.Context(), jetstream.KeyValueConfig{Bucket: "bucket"})
			require.NoError(t, err)
			ctx, stop := context.WithCancel(t.Context())
			var removing, creating errgroup.Group
			removing.Go(func() error {
				for ctx.Err() == nil {
					_ = remove(b) // it may be missing at this moment
				}
				return nil
			})
			for range 2 {
				creating.Go(func() error {
					for range 5 { // each waits for the deletion
						err := b.Ensure(t.Context())
						var busy *jetstream.APIError // the files of the last stream are still there
						if err != nil && !errors.Is(err, broker.ErrUnreachable) && !(errors.As(err, &busy) && busy.Code >= 500) {
							return err
						}
					}
					return nil
				})
			}
			require.NoError(t, creating.Wait())
			stop()
			require.NoError(t, removing.Wait())
			require.EventuallyWithT(t, func(t *assert.CollectT) { assert.NoError(t, b.Ensure(context.Background())) }, 10*time.Second, 10*time.Millisecond)
		})
	}
}

// TestCreatedAgainWhileItIsDeleted: nats-server forgets a stream, and ends the requests of its
// consumers, before it deletes the stream's files. Ensure does not create the stream in between,
// because the new stream would have the old messages, and would lose its files.
func TestCreatedAgainWhileItIsDeleted(t *testing.T) {
	const others = 600 // consumers, whose deletion takes time
	b := brokertest.Embedded(t)
	for i := range others {
		_, err := b.Stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: fmt.Sprint("other", i), FilterSubject: fmt.Sprint("mirror.other.", i), AckPolicy: jetstream.AckExplicitPolicy})
		require.NoError(t, err)
	}
	_, err := b.JS.Publish(t.Context(), "mirror.other.1", nil)
	require.NoError(t, err)
	ended := make(chan error, 1)
	messages, err := b.Consumer.Messages()
	require.NoError(t, err)
	t.Cleanup(messages.Stop)
	go func() {
		_, err := messages.Next()
		ended <- err
	}()
	require.Eventually(t, func() bool {
		info, err := b.Consumer.Info(t.Context())
		return err == nil && info.NumWaiting == 1
	}, time.Minute, time.Millisecond)
	deleted := make(chan error, 1)
	go func() { deleted <- b.JS.DeleteStream(t.Context(), broker.StreamName) }()
	require.ErrorIs(t, <-ended, jetstream.ErrConsumerDeleted)
	require.NoError(t, b.Ensure(t.Context()))
	require.NoError(t, <-deleted)
	info, err := b.Stream.Info(t.Context())
	require.NoError(t, err)
	require.Zero(t, info.State.Msgs)
}
