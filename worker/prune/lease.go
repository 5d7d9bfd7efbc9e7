package prune

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/exit"
)

const (
	// leaseFor is how long a lease lasts after its last renewal. If its holder is killed, plans
	// of the mirror name and runs to the destination wait for so long. The time counts from when
	// another process first sees the renewal, so that clocks need not agree. A holder renews its
	// lease three times in this time.
	leaseFor = 15 * time.Second
	// turn is the pause before a process asks again.
	turn = 500 * time.Millisecond
)

// ErrTaken is returned if another process has, or may have, taken the lease.
var ErrTaken = exit.Unfinished.New("another process carries out this plan, or the broker did not answer in time")

// Holder is the process that carries out a plan. The zero Holder means none.
type Holder struct {
	Plan        string `json:"plan"` // its ID
	Destination string `json:"destination"`
	By          string `json:"by"`
	Process     string `json:"process"` // a name that no other process has
}

// Overlap reports whether one of two destinations, host[:port][/prefix], is below the other, or
// both are the same.
func Overlap(a, b string) bool {
	a, b = strings.TrimSuffix(a, "/")+"/", strings.TrimSuffix(b, "/")+"/"
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}

// observed is a lease as this process has seen it.
type observed struct {
	revision uint64
	since    time.Time
}

// ended reports whether the lease has ended: its revision has not changed for a time.
func (o *observed) ended(revision uint64, after time.Duration) bool {
	if o.revision != revision || o.since.IsZero() {
		*o = observed{revision, time.Now()}
	}
	return time.Since(o.since) >= after
}

// Lease is the right to carry out plans of a mirror name. One process has it at a time. Meanwhile,
// no run to the destination is published.
type Lease struct {
	store   *Store
	holder  Holder
	Record  Record // as it was when the lease was taken
	renewed atomic.Pointer[time.Time]
	pending bool // a deletion was not answered
}

// Take takes the lease of a mirror name for a plan, which may be finished. If another process
// holds it, Take calls waiting once with the holder, and waits until the lease ends.
func (s *Store) Take(ctx context.Context, mirror string, h Holder, waiting func(Holder)) (*Lease, error) {
	l := &Lease{store: s, holder: h}
	var seen observed
	for called := false; ; called = true {
		var other Holder
		asked := time.Now()
		err := s.updateState(ctx, mirror, func(st *State, revision uint64) bool {
			if other = st.Executing; other.Process != "" && !seen.ended(revision, s.lease) {
				return false
			}
			other, st.Executing = Holder{}, h
			return true
		})
		if err != nil {
			return nil, err
		}
		if other.Process == "" {
			l.renewed.Store(&asked)
			break
		}
		if !called {
			waiting(other)
		}
		if err := Sleep(ctx, turn); err != nil {
			return nil, err
		}
	}
	err := s.updateRecord(ctx, mirror, h.Plan, func(r *Record) bool {
		if r.Started.IsZero() {
			r.Started = time.Now().UTC()
		}
		r.By = h.By
		l.Record = *r
		return true
	})
	if err != nil {
		_ = l.Release(context.WithoutCancel(ctx), nil) // it ends by itself, too
		return nil, err
	}
	return l, nil
}

// Await returns when no process carries out a plan at the destination, or at any if it is "". Call
// it after a run was stored and before its chunks are published: a stored run stops executions, and
// prevents new ones. If Await has to wait, it calls waiting once with the holder of a lease.
func Await(ctx context.Context, b *broker.Broker, destination string, waiting func(Holder)) error {
	s, err := OpenStore(ctx, b)
	if err != nil {
		return err
	}
	return s.await(ctx, destination, waiting)
}

func (s *Store) await(ctx context.Context, destination string, waiting func(Holder)) error {
	seen := map[string]*observed{}
	for called := false; ; called = true {
		states, err := s.states(ctx)
		if err != nil {
			return err
		}
		free := true
		for _, st := range states {
			if st.Executing.Process == "" || destination != "" && !Overlap(st.Executing.Destination, destination) {
				continue
			}
			if seen[st.Mirror] == nil {
				seen[st.Mirror] = &observed{}
			}
			if !seen[st.Mirror].ended(st.revision, s.lease) {
				if free && !called {
					waiting(st.Executing)
				}
				free = false
				continue
			}
			err := s.updateState(ctx, st.Mirror, func(now *State, revision uint64) bool {
				if revision != st.revision {
					free = false
					return false
				}
				now.Executing = Holder{}
				return true
			})
			if err != nil {
				return err
			}
		}
		if free {
			return nil
		}
		if err := Sleep(ctx, turn); err != nil {
			return err
		}
	}
}

// renew renews the lease and changes the state. It returns ErrTaken if another process has taken
// the lease.
func (l *Lease) renew(ctx context.Context, change func(*State)) error {
	lost, asked := false, time.Now()
	err := l.store.updateState(ctx, l.Record.Mirror, func(st *State, _ uint64) bool {
		if lost = st.Executing != l.holder; lost {
			return false
		}
		change(st)
		return true
	})
	switch {
	case err != nil:
		return err
	case lost:
		return ErrTaken
	}
	l.renewed.Store(&asked)
	return nil
}

// held returns ErrTaken if the lease may end soon. It does not ask the broker.
func (l *Lease) held() error {
	if time.Since(*l.renewed.Load()) >= l.store.lease*2/3 {
		return ErrTaken
	}
	return nil
}

// during sends a deletion if the lease is held. If ctx ends before the answer, the registry may
// still be about to delete.
func (l *Lease) during(ctx context.Context, remove func() error) error {
	if err := l.held(); err != nil {
		return err
	}
	err := remove()
	l.pending = err != nil && ctx.Err() != nil
	return err
}

// Finish records that the repository at a place of the plan is finished, and its outcome.
func (l *Lease) Finish(ctx context.Context, place int, o Outcome) error {
	if err := l.held(); err != nil {
		return err
	}
	return l.store.updateRecord(ctx, l.Record.Mirror, l.Record.Plan, func(r *Record) bool {
		if r.Done.Has(place) {
			return false
		}
		r.Done = r.Done.with(place)
		r.Outcome.add(o)
		return true
	})
}

// end records that the whole plan is carried out.
func (l *Lease) end(ctx context.Context) error {
	return l.store.updateRecord(ctx, l.Record.Mirror, l.Record.Plan, func(r *Record) bool {
		if !r.Finished.IsZero() {
			return false
		}
		r.Finished = time.Now().UTC()
		return true
	})
}

// Release gives back the lease, and notes how the execution has ended. If last is nil, another
// execution continues. If a deletion was not answered, the lease is left to end by itself.
func (l *Lease) Release(ctx context.Context, last *Last) error {
	if l.pending && last == nil {
		return nil
	}
	err := l.renew(ctx, func(st *State) {
		if last != nil {
			st.end(*last)
		}
		if !l.pending {
			st.Executing = Holder{}
		}
	})
	l.renewed.Store(&time.Time{})
	return err
}

// keep renews the lease until ctx ends. It calls stop if that fails, or if busy returns an error.
func (l *Lease) keep(ctx context.Context, busy func(context.Context) error, stop func(error)) {
	asks, renews := time.NewTicker(2*turn), time.NewTicker(l.store.lease/3)
	defer asks.Stop()
	defer renews.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-asks.C:
			err = busy(ctx)
		case <-renews.C:
			err = l.renew(ctx, func(*State) {})
		}
		if err != nil && ctx.Err() == nil {
			stop(err)
			return
		}
	}
}
