package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/run"
)

const (
	// bucket holds events, and their deliveries.
	bucket = "mirror_notices"

	eventPrefix = "event."
	sentPrefix  = "sent."
)

// stored is an event in the bucket.
type stored struct {
	event
	Silent bool `json:"silent,omitempty"` // it is sent to no receiver
	// Images are those that had failed, to compare the next run with.
	Images []string `json:"images,omitempty"`
}

// delivery is the state of an event's message to a receiver.
type delivery struct {
	Sent    bool      `json:"sent"`
	Until   time.Time `json:"until"` // when another try may begin
	Tries   int       `json:"tries"`
	Service string    `json:"service"`
	Error   string    `json:"error,omitempty"`
}

// store keeps events. Each is created once, by whichever process is first.
type store struct{ kv jetstream.KeyValue }

func openStore(ctx context.Context, b *broker.Broker) (store, error) {
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{
		Bucket: bucket, Description: "skopeo-worker: events, and their deliveries", TTL: run.Keep,
	})
	return store{kv}, err
}

// create stores an event under a key, unless it is there.
func (s store) create(ctx context.Context, key string, e stored) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = s.kv.Create(ctx, eventPrefix+key, data)
	if errors.Is(err, jetstream.ErrKeyExists) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("storing event %s: %w", key, err)
	}
	return nil
}

// has reports whether there is an event under the key.
func (s store) has(ctx context.Context, key string) (bool, error) {
	_, err := s.kv.Get(ctx, eventPrefix+key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	return err == nil, err
}

// keyed is an event with its key.
type keyed struct {
	key string
	stored
}

// list returns the events whose key begins with the prefix, sorted by key.
func (s store) list(ctx context.Context, prefix string) ([]keyed, error) {
	watch, err := s.kv.Watch(ctx, eventPrefix+">", jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("listing events: %w", err)
	}
	defer func() { _ = watch.Stop() }()
	var all []keyed
	for entry := range watch.Updates() {
		if entry == nil {
			slices.SortFunc(all, func(a, b keyed) int { return strings.Compare(a.key, b.key) })
			return all, nil
		}
		e := keyed{key: strings.TrimPrefix(entry.Key(), eventPrefix)}
		if strings.HasPrefix(e.key, prefix) && json.Unmarshal(entry.Value(), &e.stored) == nil {
			all = append(all, e)
		}
	}
	return nil, fmt.Errorf("listing events: %w", context.Cause(ctx))
}

// lease is how long a process has to send a message before another one may.
const lease = time.Minute

// errTaken is returned if another process sends the message, or it is not time yet.
var errTaken = errors.New("not to be sent now")

// claim reserves the delivery of an event to a receiver for this process, and counts the try.
func (s store) claim(ctx context.Context, key string, r receiver, now time.Time) (d delivery, revision uint64, err error) {
	key = sentPrefix + hash(key) + "." + r.key
	entry, err := s.kv.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
	case err != nil:
		return d, 0, err
	default:
		revision = entry.Revision()
		if json.Unmarshal(entry.Value(), &d) == nil && (d.Sent || now.Before(d.Until)) {
			return d, 0, errTaken
		}
	}
	d.Tries, d.Until, d.Service = d.Tries+1, now.Add(lease), r.service
	revision, err = s.put(ctx, key, d, revision)
	return d, revision, err
}

// settle stores the result of a claim.
func (s store) settle(ctx context.Context, key string, r receiver, d delivery, revision uint64) error {
	_, err := s.put(ctx, sentPrefix+hash(key)+"."+r.key, d, revision)
	return err
}

func (s store) put(ctx context.Context, key string, d delivery, revision uint64) (uint64, error) {
	data, err := json.Marshal(d)
	if err != nil {
		return 0, err
	}
	revision, err = s.kv.Update(ctx, key, data, revision)
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) || errors.Is(err, jetstream.ErrKeyExists) {
		return 0, errTaken
	}
	return revision, err
}
