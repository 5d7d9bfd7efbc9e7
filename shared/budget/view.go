package budget

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/subject"
)

// Names at the broker. The subjects are outside of the mirror stream's.
const (
	bucketLimits = "mirror_limits"
	bucketClosed = "mirror_closed"
	streamPace   = "mirror_pace"

	subjectPace    = "budget.pace"
	subjectWindow  = "budget.window"
	streamWindow   = "mirror_window_"
	metaRegistry   = "registry"
	metaIdentity   = "identity"
	metaSlack      = "slack"
	metaUntil      = "slack_until"
	separator      = "==" // is in no encoded token
	keySet         = "set"
	keyLearned     = "learned"
	keyFound       = "found"
	keyTurn        = "turn"
	windowSubjects = subjectWindow + ".>"
)

// token encodes s as one token of a subject, a key, or a stream's name.
func token(s string) string { return subject.NewAddress("", "", s, "").Registry }

// view is this process's copy of the buckets.
type view struct {
	stated   map[string]stated  // limits set and learned, by key
	found    map[string]found   // rates found, by key
	turns    map[string]turn    // mirror names that wait, by key
	closed   map[string]closure // by key
	revision map[string]uint64  // of the last entry applied, by bucket and key
	read     map[string]uint64  // the revision up to which everything was read, by bucket
	created  map[string]time.Time
}

func newView() view {
	return view{
		stated: map[string]stated{}, found: map[string]found{}, turns: map[string]turn{}, closed: map[string]closure{},
		revision: map[string]uint64{}, read: map[string]uint64{}, created: map[string]time.Time{},
	}
}

// created records when a bucket was created. If it was created again, its revisions start again.
func (s *Store) created(bucket string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &s.view
	if known, ok := v.created[bucket]; ok && !known.Equal(at) {
		v.read[bucket] = 0
		for place := range v.revision {
			if strings.HasPrefix(place, bucket+"/") {
				delete(v.revision, place)
			}
		}
	}
	v.created[bucket] = at
}

// entry is an entry of a bucket.
type entry struct {
	bucket, key string
	revision    uint64
	value       []byte // nil if the key was deleted
	at          time.Time
}

func entryOf(e jetstream.KeyValueEntry) entry {
	value := e.Value()
	if e.Operation() != jetstream.KeyValuePut {
		value = nil
	}
	return entry{e.Bucket(), e.Key(), e.Revision(), value, e.Created()}
}

// apply takes an entry into the view, unless it has a newer one. If inOrder, the view has
// all entries of smaller revisions.
func (s *Store) apply(e entry, inOrder bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &s.view
	if inOrder {
		v.read[e.bucket] = max(v.read[e.bucket], e.revision)
	}
	place := e.bucket + "/" + e.key
	if e.revision <= v.revision[place] {
		return
	}
	v.revision[place] = e.revision
	var err error
	kind, _, _ := strings.Cut(e.key, ".")
	switch {
	case e.bucket == bucketClosed:
		err = put(v.closed, e)
	case kind == keyFound:
		err = put(v.found, e)
	case kind == keyTurn:
		err = put(v.turns, e)
	default:
		err = put(v.stated, e)
	}
	if err != nil {
		s.log.Warn("an entry of the shared budget cannot be read", "bucket", e.bucket, "key", e.key, "error", err)
	}
}

// value is the value of an entry of a bucket. stored returns it with the time at which it
// was stored, by the broker's clock. It returns false if no worker or planner writes such
// a value.
type value[T any] interface{ stored(at time.Time) (T, bool) }

// put stores an entry's value under its key, or removes it.
func put[T value[T]](m map[string]T, e entry) error {
	if e.value == nil {
		delete(m, e.key)
		return nil
	}
	value, err := decode[T](e)
	if err == nil {
		m[e.key] = value
	}
	return err
}

// errNoEntry is returned for valid JSON that no worker or planner has written.
var errNoEntry = errors.New("not an entry of its key")

func decode[T value[T]](e entry) (T, error) {
	var value, zero T
	if err := json.Unmarshal(e.value, &value); err != nil {
		return zero, err
	}
	value, ok := value.stored(e.at)
	if !ok {
		return zero, errNoEntry
	}
	return value, nil
}

// store stores a value for the fleet, this process first.
func (s *Store) store(ctx context.Context, kv jetstream.KeyValue, key string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	revision, err := kv.Put(ctx, key, data)
	if err != nil {
		return err
	}
	s.apply(entry{kv.Bucket(), key, revision, data, s.Now()}, false)
	return nil
}

// update replaces a value at the broker with the result of change, for the fleet, and for this
// process at once. change gets the zero value if there is no readable one. If it returns false or
// an error, nothing changes. update calls it again if another process has changed the value in
// between.
func update[T value[T]](ctx context.Context, s *Store, kv jetstream.KeyValue, key string, change func(T) (T, bool, error)) error {
	var data []byte
	revision, err := broker.Update(ctx, kv, key, func(e jetstream.KeyValueEntry) ([]byte, error) {
		var last T
		if e != nil {
			s.apply(entryOf(e), false)
			last, _ = decode[T](entryOf(e))
		}
		next, changed, err := change(last)
		if err != nil || !changed {
			return nil, err
		}
		data, err = json.Marshal(next)
		return data, err
	})
	if err == nil && revision > 0 {
		s.apply(entry{kv.Bucket(), key, revision, data, s.Now()}, false)
	}
	return err
}
