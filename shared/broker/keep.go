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
	// keepInterval is how often Keep looks, so that what is missing is back within seconds.
	keepInterval = 5 * time.Second
	// roomEvery is how many looks at a shared broker lie between two checks of its disk.
	roomEvery = 3
)

// Keep recreates what is deleted at the broker, and checks the versions of its servers,
// until ctx ends. It returns ErrTooOld or ErrForeignStream if the broker must not be used
// any longer, and ErrFull if it is embedded and its disk was full, because only a restart
// helps then. It waits for a broker that is away.
func (b *Broker) Keep(ctx context.Context) error {
	connected := b.Conn.StatusChanged(nats.CONNECTED)
	defer b.Conn.RemoveStatusListener(connected)
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	full := false
	for look := 0; ; look++ {
		err := b.Ensure(ctx)
		// With several replicas, a server without room leaves the lead to another one.
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
				b.log.Error("the broker cannot store messages", "error", err)
			}
			full = true
		case err != nil:
			b.log.Debug("checking the broker", "error", err)
		case room && full:
			b.log.Info("the broker stores messages again")
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

// Ensure does once what Keep does again and again, except for the disk.
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

// Maker creates a stream if it is missing, and reports whether it was.
type Maker func(context.Context) (made bool, err error)

// Own makes Keep recreate a stream that this process needs besides StreamName.
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
			return fmt.Errorf("recreating stream %s: %w", name, err)
		}
		if made {
			b.log.Error("a stream was deleted at the broker; created it again, empty", "stream", name)
		}
	}
	return nil
}

// bucketStream returns the stream of a bucket, and bucketSubjects what its subjects begin
// with (ADR-8).
func bucketStream(bucket string) string   { return "KV_" + bucket }
func bucketSubjects(bucket string) string { return "$KV." + bucket + "." }

// Bucket opens a key-value bucket, and creates it if it is missing. Keep recreates it.
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
