package prune

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/reference"
)

const (
	// Bucket holds how far plans are carried out.
	Bucket = "mirror_prunes"
	// keep is how long that is kept after the last repository.
	keep = 90 * 24 * time.Hour
	// leaseFor is how long a process that was killed keeps a plan from being carried out. A
	// process that is alive renews its lease three times meanwhile.
	leaseFor = 15 * time.Second
)

// Record is how far a plan is carried out.
type Record struct {
	Mirror   string                        `json:"mirror"`
	Plan     string                        `json:"plan"` // its ID
	By       string                        `json:"by"`   // user@host
	Started  time.Time                     `json:"started"`
	Renewed  time.Time                     `json:"renewed"` // the lease of By
	Holder   string                        `json:"holder"`  // of the lease; a process
	Finished time.Time                     `json:"finished,omitzero"`
	Done     map[reference.Repository]bool `json:"done"` // repositories
	Outcome  Outcome                       `json:"outcome"`
}

// Store keeps the records.
type Store struct{ kv jetstream.KeyValue }

// OpenStore returns the store of a broker, and creates its bucket if it is missing.
func OpenStore(ctx context.Context, b *broker.Broker) (*Store, error) {
	kv, err := b.Bucket(ctx, jetstream.KeyValueConfig{Bucket: Bucket, Description: "skopeo-worker: plans of planner prune that were executed", TTL: keep})
	if err != nil {
		return nil, err
	}
	return &Store{kv}, nil
}

// Lease is the right to carry out a plan. One process has it at a time.
type Lease struct {
	store  *Store
	holder string
	Record Record // when it was taken
}

// Take takes the lease of a plan for a holder, or reports who has it. A finished plan can be
// taken, too.
func (s *Store) Take(ctx context.Context, mirror, plan, by, holder string) (lease *Lease, other string, err error) {
	var taken Record
	err = s.update(ctx, mirror, plan, func(r *Record) bool {
		other = ""
		if r.Holder != "" && r.Holder != holder && time.Since(r.Renewed) < leaseFor {
			other = r.By
			return false
		}
		if r.Started.IsZero() {
			r.Started = time.Now().UTC()
		}
		r.By, r.Holder, r.Renewed = by, holder, time.Now().UTC()
		taken = *r
		return true
	})
	if err != nil || other != "" {
		return nil, other, err
	}
	return &Lease{s, holder, taken}, "", nil
}

func (s *Store) update(ctx context.Context, mirror, plan string, change func(*Record) bool) error {
	_, err := broker.Update(ctx, s.kv, mirror+"."+plan, func(last jetstream.KeyValueEntry) ([]byte, error) {
		r := Record{Mirror: mirror, Plan: plan}
		if last != nil {
			if err := json.Unmarshal(last.Value(), &r); err != nil {
				return nil, fmt.Errorf("key %s.%s is no record: %w", mirror, plan, err)
			}
		}
		if r.Done == nil {
			r.Done = map[reference.Repository]bool{}
		}
		if !change(&r) {
			return nil, nil
		}
		return json.Marshal(r)
	})
	if err != nil {
		return fmt.Errorf("recording the execution of plan %s in %s: %w", plan, Bucket, err)
	}
	return nil
}

// change changes the record. It returns ErrTaken if another process has taken the lease.
func (l *Lease) change(ctx context.Context, change func(*Record)) error {
	lost := false
	err := l.store.update(ctx, l.Record.Mirror, l.Record.Plan, func(r *Record) bool {
		if lost = r.Holder != l.holder; lost {
			return false
		}
		change(r)
		r.Renewed = time.Now().UTC()
		return true
	})
	if err == nil && lost {
		err = ErrTaken
	}
	return err
}

// Finish records that a repository is finished, and what became of its tags.
func (l *Lease) Finish(ctx context.Context, repository reference.Repository, o Outcome) error {
	return l.change(ctx, func(r *Record) {
		r.Done[repository] = true
		r.Outcome.add(o)
	})
}

// Release gives the lease back. all says that the whole plan is carried out.
func (l *Lease) Release(ctx context.Context, all bool) error {
	return l.change(ctx, func(r *Record) {
		r.Holder = ""
		if all && r.Finished.IsZero() {
			r.Finished = time.Now().UTC()
		}
	})
}

// Keep renews the lease until ctx ends, and calls lost if it cannot.
func (l *Lease) Keep(ctx context.Context, lost func(error)) {
	ticker := time.NewTicker(leaseFor / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := l.change(ctx, func(*Record) {}); err != nil && ctx.Err() == nil {
			lost(err)
			return
		}
	}
}
