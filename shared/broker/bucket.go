package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// headerOperation is the header of a message that marks a key as deleted.
const headerOperation = "KV-Operation"

// bucket is a key-value bucket. Its Get asks the leader, because a replica may lag behind, and does
// not fail on a foreign header. Its errors report a full disk, and wrap ErrConflict if a revision
// is not the last one.
type bucket struct {
	jetstream.KeyValue
	b *Broker
}

// Get implements jetstream.KeyValue.
func (k bucket) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	m, err := k.b.Last(ctx, bucketStream(k.Bucket()), bucketSubjects(k.Bucket())+key)
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

func (e entry) Bucket() string     { return e.bucket }
func (e entry) Key() string        { return e.key }
func (e entry) Value() []byte      { return e.m.Data }
func (e entry) Revision() uint64   { return e.m.Sequence }
func (e entry) Created() time.Time { return e.m.Time }
func (e entry) Delta() uint64      { return 0 }
func (e entry) Operation() jetstream.KeyValueOp {
	switch e.m.Header.Get(headerOperation) {
	case "":
		return jetstream.KeyValuePut
	case "PURGE":
		return jetstream.KeyValuePurge
	}
	return jetstream.KeyValueDelete
}

// Put implements jetstream.KeyValue.
func (k bucket) Put(ctx context.Context, key string, value []byte) (uint64, error) {
	revision, err := responded(ctx, func() (uint64, error) { return k.KeyValue.Put(undated{ctx}, key, value) })
	return revision, k.unstored(ctx, err)
}

// PutString implements jetstream.KeyValue.
func (k bucket) PutString(ctx context.Context, key, value string) (uint64, error) {
	return k.Put(ctx, key, []byte(value))
}

// Create implements jetstream.KeyValue.
func (k bucket) Create(ctx context.Context, key string, value []byte, opts ...jetstream.KVCreateOpt) (uint64, error) {
	revision, err := responded(ctx, func() (uint64, error) { return k.KeyValue.Create(undated{ctx}, key, value, opts...) })
	return revision, k.unstored(ctx, err)
}

// Update implements jetstream.KeyValue.
func (k bucket) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	revision, err := responded(ctx, func() (uint64, error) { return k.KeyValue.Update(undated{ctx}, key, value, revision) })
	return revision, k.unstored(ctx, err)
}

// Delete implements jetstream.KeyValue.
func (k bucket) Delete(ctx context.Context, key string, opts ...jetstream.KVDeleteOpt) error {
	_, err := responded(ctx, func() (struct{}, error) { return struct{}{}, k.KeyValue.Delete(undated{ctx}, key, opts...) })
	return err
}

// Purge implements jetstream.KeyValue.
func (k bucket) Purge(ctx context.Context, key string, opts ...jetstream.KVDeleteOpt) error {
	_, err := responded(ctx, func() (struct{}, error) { return struct{}{}, k.KeyValue.Purge(undated{ctx}, key, opts...) })
	return err
}

func (k bucket) unstored(ctx context.Context, err error) error {
	if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return fmt.Errorf("%w (%w)", ErrConflict, err)
	}
	return Conflict(k.b.Unstored(ctx, bucketStream(k.Bucket()), err))
}

// Update sets the value of a key of a Bucket to what change returns, and returns the new
// revision. change gets the current entry, or nil if there is none. Update calls it again
// if another process has changed the entry in between. If change returns nil, the entry
// stays as it is, and the revision is 0.
func Update(ctx context.Context, kv jetstream.KeyValue, key string, change func(jetstream.KeyValueEntry) ([]byte, error)) (uint64, error) {
	for {
		last, err := kv.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			last, err = nil, nil
		}
		var value []byte
		if err == nil {
			value, err = change(last)
		}
		if err != nil || value == nil {
			return 0, err
		}
		var revision uint64
		if last == nil {
			revision, err = kv.Create(ctx, key, value)
		} else {
			revision, err = kv.Update(ctx, key, value, last.Revision())
		}
		if !errors.Is(err, ErrConflict) {
			return revision, err
		}
	}
}
