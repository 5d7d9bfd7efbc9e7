package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// headerOperation marks an entry that says that its key was deleted.
const headerOperation = "KV-Operation"

// bucket is a key-value bucket that says why it stores nothing. Its Get asks the leader,
// because a replica may be behind, and does not fail on a foreign header.
type bucket struct {
	jetstream.KeyValue
	b *Broker
}

// Get implements jetstream.KeyValue.
func (k bucket) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	m, err := k.b.Last(ctx, bucketStream(k.Bucket()), "$KV."+k.Bucket()+"."+key)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound), err == nil && m.Header.Get(headerOperation) != "":
		return nil, jetstream.ErrKeyNotFound
	case code(err) == jetstream.JSErrCodeStreamNotFound:
		// Workers create it again. Until then, the broker counts as unreachable.
		return nil, fmt.Errorf("%w: bucket %s: %v", ErrUnreachable, k.Bucket(), err)
	case err != nil:
		return nil, err
	}
	return entry{k.Bucket(), key, m}, nil
}

// entry implements jetstream.KeyValueEntry.
type entry struct {
	bucket, key string
	m           *jetstream.RawStreamMsg
}

func (e entry) Bucket() string                  { return e.bucket }
func (e entry) Key() string                     { return e.key }
func (e entry) Value() []byte                   { return e.m.Data }
func (e entry) Revision() uint64                { return e.m.Sequence }
func (e entry) Created() time.Time              { return e.m.Time }
func (e entry) Delta() uint64                   { return 0 }
func (e entry) Operation() jetstream.KeyValueOp { return jetstream.KeyValuePut }

func (k bucket) unstored(ctx context.Context, revision uint64, err error) (uint64, error) {
	return revision, k.b.Unstored(ctx, bucketStream(k.Bucket()), err)
}

// Put implements jetstream.KeyValue.
func (k bucket) Put(ctx context.Context, key string, value []byte) (uint64, error) {
	revision, err := k.KeyValue.Put(ctx, key, value)
	return k.unstored(ctx, revision, err)
}

// PutString implements jetstream.KeyValue.
func (k bucket) PutString(ctx context.Context, key, value string) (uint64, error) {
	return k.Put(ctx, key, []byte(value))
}

// Create implements jetstream.KeyValue.
func (k bucket) Create(ctx context.Context, key string, value []byte, opts ...jetstream.KVCreateOpt) (uint64, error) {
	revision, err := k.KeyValue.Create(ctx, key, value, opts...)
	return k.unstored(ctx, revision, err)
}

// Update implements jetstream.KeyValue.
func (k bucket) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	revision, err := k.KeyValue.Update(ctx, key, value, revision)
	return k.unstored(ctx, revision, err)
}
