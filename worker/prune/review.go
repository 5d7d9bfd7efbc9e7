package prune

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/exit"
)

var (
	// ErrStale is returned if a plan cannot be confirmed: another plan has replaced it, or it was
	// confirmed before.
	ErrStale = exit.Usage.New("the plan cannot be confirmed")
	// ErrCount is returned if a user confirms a plan with a wrong number of tags.
	ErrCount = exit.Usage.New("this is not the number of tags of the plan")
	// ErrGone is returned if the broker does not have the pieces of a plan any more.
	ErrGone = errors.New("the plan is not at the broker any more; make a new one")
)

// Review is a plan that the broker keeps until a user confirms it, and the result of its
// execution.
type Review struct {
	Plan          string    `json:"plan"` // its ID
	Made          time.Time `json:"made"`
	By            string    `json:"by"` // the user who made it
	Grace         string    `json:"grace"`
	Max           string    `json:"max"`                // Caps.All
	PerRepository string    `json:"max_per_repository"` // Caps.PerRepository
	Keep          []string  `json:"keep,omitempty"`     // as in Terms
	LeftList      bool      `json:"left_list,omitempty"`
	Over          string    `json:"over,omitempty"` // the ErrCap, if the plan exceeds its caps
	Recorded      int       `json:"recorded"`
	Tags          int       `json:"tags"`
	Repositories  int       `json:"repositories"`
	Bytes         int64     `json:"bytes"`
	Left          int       `json:"left"`
	Pieces        int       `json:"pieces"` // number of entries that hold the plan

	Confirmed   time.Time `json:"confirmed,omitzero"`
	ConfirmedBy string    `json:"confirmed_by,omitempty"`
	// Ended is when the execution ended. Finished reports whether it has carried out the whole
	// plan; if not, Why is the reason.
	Ended    time.Time `json:"ended,omitzero"`
	Finished bool      `json:"finished,omitempty"`
	Why      string    `json:"why,omitempty"`
	Outcome  Outcome   `json:"outcome,omitzero"`
}

// Terms are the settings of a plan, besides its grace period. Its execution needs them again.
type Terms struct {
	Caps
	Keep     []string // regular expressions of tags that are never deleted
	LeftList bool     // whether to delete tags that an entry kept before it left the list
}

// Open reports whether the plan may be confirmed: for the first time, or again because its
// execution ended early.
func (r *Review) Open() bool { return !r.Finished && !r.UnderWay() && r.Tags > 0 && r.Over == "" }

// UnderWay reports whether the plan was confirmed and its execution has not ended.
func (r *Review) UnderWay() bool { return !r.Confirmed.IsZero() && r.Ended.IsZero() }

// Last is the last execution of a plan.
type Last struct {
	Plan     string    `json:"plan"`
	By       string    `json:"by"`
	At       time.Time `json:"at"` // when it ended
	Finished bool      `json:"finished"`
	Why      string    `json:"why,omitempty"` // why it is not finished
	Outcome  Outcome   `json:"outcome"`       // sum of all executions of the plan
}

// end notes how an execution has ended.
func (st *State) end(l Last) {
	st.Last = &l
	if r := st.Review; r != nil && r.Plan == l.Plan {
		r.Ended, r.Finished, r.Why, r.Outcome = l.At, l.Finished, l.Why, l.Outcome
	}
}

// End notes that a confirmed plan is not executed, because of an error before its execution.
func (s *Store) End(ctx context.Context, mirror, plan string, why error) error {
	return s.updateState(ctx, mirror, func(st *State, _ uint64) bool {
		r := st.Review
		if r == nil || r.Plan != plan || !r.UnderWay() {
			return false
		}
		r.Ended, r.Why = time.Now().UTC(), why.Error()
		return true
	})
}

// State returns the state of a mirror name; it is empty if the broker has none.
func (s *Store) State(ctx context.Context, mirror string) (State, error) {
	st := State{Mirror: mirror}
	if err := s.readInto(ctx, mirror, &st); err != nil {
		return st, fmt.Errorf("reading the prune plans of mirror %s: %w", mirror, err)
	}
	return st, nil
}

// readInto reads the value of a key, if it exists.
func (s *Store) readInto(ctx context.Context, key string, value any) error {
	entry, err := s.kv.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return nil
	case err != nil:
		return err
	}
	return json.Unmarshal(entry.Value(), value)
}

// Record returns how far a plan is carried out.
func (s *Store) Record(ctx context.Context, mirror, plan string) (r Record, err error) {
	if err := s.readInto(ctx, mirror+"."+plan, &r); err != nil {
		return r, fmt.Errorf("reading the progress of plan %s: %w", plan, err)
	}
	return r, nil
}

const (
	// maxPiece is the size of the largest piece of a plan. NATS servers accept messages of 1 MiB
	// by default.
	maxPiece = 512 << 10
	// maxPlan is the maximal size of an unpacked plan, enough for about a million tags.
	maxPlan = 256 << 20
)

func pieceKey(mirror, plan string, n int) string { return fmt.Sprintf("%s.%s.%d", mirror, plan, n) }

// Propose stores a plan in place of the last one. It can be confirmed unless it exceeds its caps.
// The error is ErrStale while the last plan is executed.
func (s *Store) Propose(ctx context.Context, p Plan, t Terms, by string) error {
	r := &Review{
		Plan: p.ID(), Made: p.Made, By: by, Grace: p.Grace, Max: t.All.String(), PerRepository: t.PerRepository.String(), Keep: t.Keep, LeftList: t.LeftList,
		Recorded: p.Recorded, Tags: p.Tags, Repositories: len(p.Repositories), Bytes: p.Bytes, Left: len(p.Left),
	}
	if err := t.Check(p); err != nil {
		r.Over = err.Error()
	}
	plain, err := json.Marshal(p)
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write(plain) // a buffer has no error
	if err := w.Close(); err != nil {
		return err
	}
	for ; packed.Len() > 0; r.Pieces++ {
		if _, err := s.kv.Put(ctx, pieceKey(p.Mirror, r.Plan, r.Pieces), packed.Next(maxPiece)); err != nil {
			return fmt.Errorf("keeping plan %s in %s: %w", r.Plan, bucket, err)
		}
	}
	var old, executed *Review
	err = s.updateState(ctx, p.Mirror, func(st *State, _ uint64) bool {
		if old, executed = st.Review, nil; old != nil && old.UnderWay() {
			executed = old
			return false
		}
		st.Review = r
		return true
	})
	switch {
	case err != nil:
		return err
	case executed != nil:
		s.drop(ctx, p.Mirror, r)
		return underWay(executed)
	case old != nil && old.Plan != r.Plan:
		s.drop(ctx, p.Mirror, old)
	}
	return nil
}

// drop deletes the pieces of a plan. If that fails, they expire.
func (s *Store) drop(ctx context.Context, mirror string, r *Review) {
	for n := range r.Pieces {
		_ = s.kv.Purge(ctx, pieceKey(mirror, r.Plan, n))
	}
}

func underWay(r *Review) error {
	return fmt.Errorf("%w: %s has confirmed a plan of %d tags, and it is being executed", ErrStale, r.ConfirmedBy, r.Tags)
}

// Proposed returns the plan of a review. Do not change it: the store remembers the last one. The
// error is ErrGone if the broker does not have the plan any more, and ErrPlan if it is invalid.
func (s *Store) Proposed(ctx context.Context, mirror string, r *Review) (Plan, error) {
	if last := s.proposed.Load(); last != nil && last.id == r.Plan && last.Mirror == mirror {
		return last.Plan, nil
	}
	p, err := s.read(ctx, mirror, r)
	if err == nil {
		s.proposed.Store(&proposed{r.Plan, p})
	}
	return p, err
}

// proposed is a plan with its ID.
type proposed struct {
	id string
	Plan
}

func (s *Store) read(ctx context.Context, mirror string, r *Review) (p Plan, err error) {
	var packed bytes.Buffer
	for n := range r.Pieces {
		entry, err := s.kv.Get(ctx, pieceKey(mirror, r.Plan, n))
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			return p, ErrGone
		}
		if err != nil {
			return p, fmt.Errorf("reading plan %s: %w", r.Plan, err)
		}
		packed.Write(entry.Value())
	}
	unpacked, err := gzip.NewReader(&packed)
	var plain []byte
	if err == nil {
		plain, err = io.ReadAll(io.LimitReader(unpacked, maxPlan))
	}
	if err == nil {
		err = json.Unmarshal(plain, &p)
	}
	if err == nil {
		err = p.Check()
	}
	if err == nil && (p.Mirror != mirror || p.ID() != r.Plan) {
		err = errors.New("it is another plan")
	}
	if err != nil {
		return Plan{}, fmt.Errorf("%w: plan %s in %s: %w", ErrPlan, r.Plan, bucket, err)
	}
	return p, nil
}

// Confirm notes that a user has confirmed a plan and the number of its tags. The error is ErrStale
// if another plan has replaced it or it is confirmed already, ErrCap if it exceeds its caps, and
// ErrCount if the number is wrong.
func (s *Store) Confirm(ctx context.Context, mirror, plan string, tags int, by string) error {
	var refused error
	err := s.updateState(ctx, mirror, func(st *State, _ uint64) bool {
		if refused = st.confirmable(plan, tags); refused != nil {
			return false
		}
		st.Review.Confirmed, st.Review.ConfirmedBy, st.Review.Ended, st.Review.Why = time.Now().UTC(), by, time.Time{}, ""
		return true
	})
	if err == nil {
		err = refused
	}
	return err
}

func (st *State) confirmable(plan string, tags int) error {
	r := st.Review
	switch {
	case r == nil || r.Plan != plan:
		return fmt.Errorf("%w: another plan has replaced it; read that one", ErrStale)
	case r.UnderWay():
		return underWay(r)
	case r.Finished:
		return fmt.Errorf("%w: it was executed, as %s has confirmed", ErrStale, r.ConfirmedBy)
	case r.Over != "":
		return fmt.Errorf("%w: %s", ErrCap, r.Over)
	case r.Tags == 0:
		return fmt.Errorf("%w: it deletes nothing", ErrStale)
	case r.Tags != tags:
		return fmt.Errorf("%w, which is %d", ErrCount, r.Tags)
	}
	return nil
}
