package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// keepInterval is how often Keep looks: what is missing is made again within seconds.
	keepInterval = 5 * time.Second
	// roomEvery is how many of these looks it takes until Keep sees whether a broker that
	// others use, too, stores what it gets.
	roomEvery = 3
)

// Keep makes again what somebody deletes at the broker, and checks the servers that
// the connection leads to, until ctx ends. It returns ErrTooOld and ErrForeignStream
// where the broker may no longer be used, and ErrFull where an embedded one does not
// store anything before it is started again; one that is away is waited for.
func (b *Broker) Keep(ctx context.Context) error {
	connected := b.Conn.StatusChanged(nats.CONNECTED)
	defer b.Conn.RemoveStatusListener(connected)
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	full := false
	for look := 0; ; look++ {
		err := b.Ensure(ctx)
		// Of several servers with a copy each, one that has no room gives way by itself.
		room := err == nil && b.Replicas == 1 && (b.Embedded() || look%roomEvery == 0)
		if room {
			err = b.Writable(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrTooOld), errors.Is(err, ErrForeignStream), b.Embedded() && errors.Is(err, ErrFull):
			return err
		case errors.Is(err, ErrFull):
			if !full {
				b.log.Error("the broker stores nothing", "error", err)
			}
			full = true
		case err != nil:
			b.log.Debug("looking for what is missing at the broker", "error", err)
		case room && full:
			b.log.Info("the broker has room again")
			full = false
		}
		select {
		case <-ctx.Done():
			return nil
		case <-connected:
		case <-ticker.C:
		}
	}
}

// Ensure checks the servers as Keep does, once, and makes what is missing.
func (b *Broker) Ensure(ctx context.Context) error {
	if err := b.versions.connected(b.Conn); err != nil {
		return err
	}
	s, c, err := b.ensure(ctx)
	if err != nil {
		return err
	}
	if created := s.CachedInfo().Created; b.streamCreated.Swap(created.UnixNano()) != created.UnixNano() {
		b.log.Error("the stream was deleted at the broker; created it again, without its chunks and failures", "stream", StreamName)
	}
	if created := c.CachedInfo().Created; b.consumerCreated.Swap(created.UnixNano()) != created.UnixNano() {
		b.log.Warn("the consumer was deleted at the broker; created it again; chunks that workers have are delivered to other workers, too", "consumer", ConsumerName)
	}
	return b.ensureOwned(ctx)
}

// Maker makes a stream where it is missing, and reports whether it was.
type Maker func(context.Context) (made bool, err error)

// Own has Keep make a stream again that this process needs besides StreamName.
func (b *Broker) Own(stream string, m Maker) {
	b.owning.Lock()
	defer b.owning.Unlock()
	b.owned[stream] = m
}

func (b *Broker) ensureOwned(ctx context.Context) error {
	there := map[string]bool{}
	names := b.JS.StreamNames(ctx)
	for name := range names.Name() {
		there[name] = true
	}
	if err := names.Err(); err != nil {
		return fmt.Errorf("listing streams: %w", err)
	}
	b.owning.Lock()
	missing := maps.Clone(b.owned)
	b.owning.Unlock()
	maps.DeleteFunc(missing, func(name string, _ Maker) bool { return there[name] })
	for name, m := range missing {
		made, err := m(ctx)
		if err != nil {
			return fmt.Errorf("making stream %s again: %w", name, err)
		}
		if made {
			b.log.Error("a stream was deleted at the broker; created it again, empty", "stream", name)
		}
	}
	return nil
}

// bucketStream is the stream of a bucket (ADR-8).
func bucketStream(bucket string) string { return "KV_" + bucket }

// Bucket opens a key-value bucket, and creates it where there is none. Keep makes it
// again.
func (b *Broker) Bucket(ctx context.Context, c jetstream.KeyValueConfig) (kv jetstream.KeyValue, err error) {
	err = Answered(ctx, func() error {
		kv, _, err = b.openBucket(ctx, c)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", c.Bucket, err)
	}
	b.Own(bucketStream(c.Bucket), func(ctx context.Context) (bool, error) {
		_, made, err := b.openBucket(ctx, c)
		return made, err
	})
	return bucket{kv, b}, nil
}

func (b *Broker) openBucket(ctx context.Context, c jetstream.KeyValueConfig) (kv jetstream.KeyValue, made bool, err error) {
	kv, err = b.JS.KeyValue(ctx, c.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		c.Replicas = b.Replicas
		kv, err = b.JS.CreateKeyValue(ctx, c)
		made = err == nil
		if errors.Is(err, jetstream.ErrBucketExists) {
			kv, err = b.JS.KeyValue(ctx, c.Bucket)
		}
	}
	return kv, made, err
}
