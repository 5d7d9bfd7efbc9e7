package prune

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
)

const (
	// bucket holds the plans of each mirror name, and the progress of their executions.
	bucket = "mirror_prunes"
	// keep is how long an entry is kept after its last change.
	keep = 90 * 24 * time.Hour
)

// State holds the plan of a mirror name and its last execution. Its key is the mirror name.
type State struct {
	Mirror string `json:"mirror"`
	// Executing is the holder of the lease. If it was killed, it stays until the lease ends.
	Executing Holder  `json:"executing,omitzero"`
	Review    *Review `json:"review,omitempty"` // nil if no plan is stored
	Last      *Last   `json:"last,omitempty"`   // nil if no plan was executed
}

// Record is the progress of a plan's executions. Its key is the mirror name and the plan's ID.
type Record struct {
	Mirror   string    `json:"mirror"`
	Plan     string    `json:"plan"` // its ID
	By       string    `json:"by"`   // the last user to execute it
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished,omitzero"`
	Done     Done      `json:"done"` // finished repositories
	Outcome  Outcome   `json:"outcome"`
}

// Done is a set of repositories by their place in the plan, with a bit for each.
type Done []byte

// Has reports whether place i is in the set.
func (d Done) Has(i int) bool { return i/8 < len(d) && d[i/8]&(1<<(i%8)) != 0 }

// with returns the set with place i.
func (d Done) with(i int) Done {
	for len(d) <= i/8 {
		d = append(d, 0)
	}
	d[i/8] |= 1 << (i % 8)
	return d
}

// Len returns how many places are in the set.
func (d Done) Len() (n int) {
	for i := range len(d) * 8 {
		if d.Has(i) {
			n++
		}
	}
	return n
}

// Store reads and writes states and records.
type Store struct {
	b        *broker.Broker
	kv       jetstream.KeyValue
	lease    time.Duration
	proposed atomic.Pointer[proposed] // the last that was read
}

// OpenStore returns the store of a broker, and creates its bucket if it is missing.
func OpenStore(ctx context.Context, b *broker.Broker) (*Store, error) {
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{Bucket: bucket, Description: "skopeo-worker: plans of planner prune, and how far they were executed", TTL: keep})
	if err != nil {
		return nil, err
	}
	return &Store{b: b, kv: kv, lease: leaseFor}, nil
}

// States returns the states of all mirror names. It leaves out entries that are not valid.
func (s *Store) States(ctx context.Context) ([]State, error) {
	entries, err := s.states(ctx)
	states := make([]State, 0, len(entries))
	for _, e := range entries {
		states = append(states, e.State)
	}
	return states, err
}

// stateEntry is a state with the revision of its entry.
type stateEntry struct {
	State
	revision uint64
}

func (s *Store) states(ctx context.Context) (all []stateEntry, err error) {
	_, err = s.b.Entries(ctx, bucket, "*", 0, func(e jetstream.KeyValueEntry) {
		var st State
		if e.Operation() == jetstream.KeyValuePut && json.Unmarshal(e.Value(), &st) == nil && st.Mirror == e.Key() {
			all = append(all, stateEntry{st, e.Revision()})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("reading the states of prune plans: %w", err)
	}
	return all, nil
}

// updateState changes the state of a mirror name, unless change returns false. change gets the
// revision of the state.
func (s *Store) updateState(ctx context.Context, mirror string, change func(st *State, revision uint64) bool) error {
	return update(ctx, s.kv, mirror, func(st *State, revision uint64) bool {
		st.Mirror = mirror
		return change(st, revision)
	})
}

func (s *Store) updateRecord(ctx context.Context, mirror, plan string, change func(*Record) bool) error {
	return update(ctx, s.kv, mirror+"."+plan, func(r *Record, _ uint64) bool {
		r.Mirror, r.Plan = mirror, plan
		return change(r)
	})
}

func update[T any](ctx context.Context, kv jetstream.KeyValue, key string, change func(value *T, revision uint64) bool) error {
	_, err := broker.Update(ctx, kv, key, func(last jetstream.KeyValueEntry) ([]byte, error) {
		var value T
		var revision uint64
		if last != nil {
			revision = last.Revision()
			if err := json.Unmarshal(last.Value(), &value); err != nil {
				return nil, fmt.Errorf("the entry is not valid: %w", err)
			}
		}
		if !change(&value, revision) {
			return nil, nil
		}
		return json.Marshal(value)
	})
	if err != nil {
		return fmt.Errorf("key %s of bucket %s: %w", key, bucket, err)
	}
	return nil
}
