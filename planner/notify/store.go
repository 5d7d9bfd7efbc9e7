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
	Silent bool `json:"silent,omitempty"` // it is not sent to any receiver
	failed
}

const (
	// maxOthers is how many images a failed has besides Images.
	maxOthers = 50_000
	// shortHash is how many digits of a hash identify one of them.
	shortHash = 8
)

// failed are the images that had failed when a run ended, for comparison with the next run.
type failed struct {
	Images []string `json:"images,omitempty"` // at most maxImages
	Others string   `json:"others,omitempty"` // the beginnings of the hashes of further images
}

func newFailed(images []string) failed {
	first := images[:min(len(images), maxImages)]
	var others strings.Builder
	for _, image := range images[len(first):min(len(images), maxImages+maxOthers)] {
		others.WriteString(hash(image)[:shortHash])
	}
	return failed{first, others.String()}
}

// has returns a function that reports whether an image had failed.
func (f failed) has() func(image string) bool {
	images, others := map[string]bool{}, map[string]bool{}
	for _, image := range f.Images {
		images[image] = true
	}
	for i := 0; i+shortHash <= len(f.Others); i += shortHash {
		others[f.Others[i:i+shortHash]] = true
	}
	return func(image string) bool { return images[image] || others[hash(image)[:shortHash]] }
}

// delivery is the state of the message about an event to a receiver.
type delivery struct {
	Sent    bool      `json:"sent"`
	Until   time.Time `json:"until"` // the next try may begin then
	Tries   int       `json:"tries"`
	Service string    `json:"service"`
	Error   string    `json:"error,omitempty"`
}

// store stores events. The first process that sees an event creates it.
type store struct {
	broker *broker.Broker
	kv     jetstream.KeyValue
}

func openStore(ctx context.Context, b *broker.Broker) (store, error) {
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{
		Bucket: bucket, Description: "skopeo-worker: events, and their deliveries", TTL: run.Keep,
	})
	return store{b, kv}, err
}

// create stores an event under a key, unless the key exists.
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

// has reports whether an event has the key.
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

// list returns the events whose key begins with the prefix, sorted by key. The prefix is empty or ends
// with a dot.
func (s store) list(ctx context.Context, prefix string) ([]keyed, error) {
	var all []keyed
	_, err := s.broker.Entries(ctx, bucket, eventPrefix+prefix+">", 0, func(entry jetstream.KeyValueEntry) {
		e := keyed{key: strings.TrimPrefix(entry.Key(), eventPrefix)}
		if entry.Operation() == jetstream.KeyValuePut && json.Unmarshal(entry.Value(), &e.stored) == nil {
			all = append(all, e)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing events: %w", err)
	}
	slices.SortFunc(all, func(a, b keyed) int { return strings.Compare(a.key, b.key) })
	return all, nil
}

// lease is how long a process may take to send a message before another process may try.
const lease = time.Minute

// errTaken is returned if another process is sending the message, or if the next try is not due yet.
var errTaken = errors.New("not to be sent now")

// claim reserves the delivery of an event to a receiver for this process, and counts the try. It returns
// errTaken if the message must not be sent now.
func (s store) claim(ctx context.Context, key string, r receiver, now time.Time) (d delivery, revision uint64, err error) {
	revision, err = broker.Update(ctx, s.kv, sentKey(key, r), func(last jetstream.KeyValueEntry) ([]byte, error) {
		d = delivery{}
		if last != nil && json.Unmarshal(last.Value(), &d) == nil && (d.Sent || now.Before(d.Until)) {
			return nil, errTaken
		}
		d.Tries, d.Until, d.Service = d.Tries+1, now.Add(lease), r.service
		return json.Marshal(d)
	})
	return d, revision, err
}

func sentKey(key string, r receiver) string { return sentPrefix + hash(key) + "." + r.key }

// settle stores the result of a claimed delivery.
func (s store) settle(ctx context.Context, key string, r receiver, d delivery, revision uint64) error {
	data, err := json.Marshal(d)
	if err == nil {
		_, err = s.kv.Update(ctx, sentKey(key, r), data, revision)
	}
	return err
}
