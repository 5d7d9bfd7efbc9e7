package broker_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestLostAnswers: a request whose answer is lost fails soon, even if its context has a deadline
// that is far away, or none.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	way := brokertest.Start(t).NewWay(t)
	b := brokertest.Open(t, way.Config())
	kv, err := b.Bucket(t.Context(), jetstream.KeyValueConfig{Bucket: "bucket"})
	require.NoError(t, err)
	stream, err := b.OpenStream(t.Context(), jetstream.StreamConfig{Name: "other", Subjects: []string{"other"}})
	require.NoError(t, err)
	way.Muted.Store(true)
	far, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	endless, end := context.WithCancel(t.Context())
	defer context.AfterFunc(far, end)()
	var all errgroup.Group
	for name, request := range map[string]func(context.Context) error{
		"Publish":    func(ctx context.Context) error { _, err := b.JS.Publish(ctx, "other", nil); return err },
		"PublishMsg": func(ctx context.Context) error { _, err := b.JS.PublishMsg(ctx, nats.NewMsg("other")); return err },
		"PublishBatch": func(ctx context.Context) error {
			_, err := b.PublishBatch(ctx, []*nats.Msg{nats.NewMsg("other"), nats.NewMsg("other")})
			return err
		},
		"Stream": func(ctx context.Context) error { _, err := b.JS.Stream(ctx, "other"); return err },
		"CreateStream": func(ctx context.Context) error {
			_, err := b.JS.CreateStream(ctx, jetstream.StreamConfig{Name: "x"})
			return err
		},
		"UpdateStream": func(ctx context.Context) error {
			_, err := b.JS.UpdateStream(ctx, jetstream.StreamConfig{Name: "x"})
			return err
		},
		"KeyValue": func(ctx context.Context) error { _, err := b.JS.KeyValue(ctx, "bucket"); return err },
		"Consumer": func(ctx context.Context) error { _, err := b.Stream.Consumer(ctx, "c"); return err },
		"ListStreams": func(ctx context.Context) error {
			l := b.JS.ListStreams(ctx)
			for range l.Info() {
			}
			return l.Err()
		},
		"StreamNames": func(ctx context.Context) error {
			l := b.JS.StreamNames(ctx)
			for range l.Name() {
			}
			return l.Err()
		},
		"Info":            func(ctx context.Context) error { _, err := stream.Info(ctx); return err },
		"Purge":           func(ctx context.Context) error { return stream.Purge(ctx) },
		"GetMsg":          func(ctx context.Context) error { _, err := stream.GetMsg(ctx, 1); return err },
		"DeleteMsg":       func(ctx context.Context) error { return stream.DeleteMsg(ctx, 1) },
		"Get of a bucket": func(ctx context.Context) error { _, err := kv.Get(ctx, "k"); return err },
		"Put":             func(ctx context.Context) error { _, err := kv.Put(ctx, "k", nil); return err },
		"Create":          func(ctx context.Context) error { _, err := kv.Create(ctx, "k", nil); return err },
		"Update":          func(ctx context.Context) error { _, err := kv.Update(ctx, "k", nil, 1); return err },
		"Delete":          func(ctx context.Context) error { return kv.Delete(ctx, "k") },
		"Purge of a key":  func(ctx context.Context) error { return kv.Purge(ctx, "k") },
		"Count":           func(ctx context.Context) error { _, err := b.Count(ctx, "mirror.>"); return err },
		"Last":            func(ctx context.Context) error { _, err := b.Last(ctx, "other", "other"); return err },
		"Entries": func(ctx context.Context) error {
			_, err := b.Entries(ctx, "bucket", ">", 0, func(jetstream.KeyValueEntry) {})
			return err
		},
		"Time": func(ctx context.Context) error { _, err := b.Time(ctx); return err },
	} {
		for kind, ctx := range map[string]context.Context{"with a deadline": far, "without one": endless} {
			all.Go(func() error {
				if err := request(ctx); err == nil || ctx.Err() != nil {
					return fmt.Errorf("%s, %s: %w", name, kind, cmp.Or(err, errors.New("no error")))
				}
				return nil
			})
		}
	}
	require.NoError(t, all.Wait())
}
