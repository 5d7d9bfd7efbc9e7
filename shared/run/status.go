package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/subject"
)

// The states of a run.
const (
	StateWaiting    = "waiting"
	StateRunning    = "running"
	StateSnoozed    = "snoozed"
	StateDone       = "done"
	StateFailed     = "failed" // over, with failures
	StateCancelled  = "cancelled"
	StateSuperseded = "superseded"
	StateLost       = "lost" // over, with chunks that are neither done nor dropped
)

// publishing is how long a plan may take between its entry in the bucket and its
// messages in the stream.
const publishing = time.Minute

// Chunks counts the chunks of a run by their state.
type Chunks struct {
	Total   int `json:"total"`
	Waiting int `json:"waiting"`
	Running int `json:"running"`
	Snoozed int `json:"snoozed"`
	Done    int `json:"done"`
	// Dropped chunks belong to a run that was cancelled or superseded, and no worker has
	// them. Some of their images may have been mirrored.
	Dropped int `json:"dropped"`
	// Lost chunks are not done, and the broker does not hold them, though nobody has ended
	// the run.
	Lost int `json:"lost"`
}

// Registry is what a registry allows, and what of a run is left there. A destination is
// one where it is closed.
type Registry struct {
	Registry    string     `json:"registry"`
	Limit       int        `json:"limit"`
	Window      string     `json:"window"`
	Spent       int        `json:"spent"`
	Free        *int       `json:"free"` // nil where nobody counts
	ClosedUntil *time.Time `json:"closed_until"`
	// ClosedSince is since when the registry is away; nil where it is not. It is
	// away until a probe finds it back, which ClosedUntil is the time for.
	ClosedSince *time.Time `json:"closed_since,omitempty"`
	Reason      string     `json:"reason"`
	NextSlot    *time.Time `json:"next_slot"`
	// ToPull are the manifests that are left to pull for the run, as far as they can be
	// told; ToPullAtLeast says that there are more.
	ToPull        int  `json:"to_pull"`
	ToPullAtLeast bool `json:"to_pull_at_least"`
	// EstimatedDone is when the budget allows the last of ToPull; nil where it is no
	// obstacle.
	EstimatedDone *time.Time `json:"estimated_done"`
}

// Status is how a run stands. Its JSON is part of the contract.
type Status struct {
	Name     string     `json:"name"`
	Run      string     `json:"run"`
	State    string     `json:"state"`
	Chunks   Chunks     `json:"chunks"`
	Images   Tally      `json:"images"`
	Pulls    int        `json:"pulls"`
	Bytes    int64      `json:"bytes"`
	Started  time.Time  `json:"started"`
	Finished *time.Time `json:"finished"`
	NextDue  *time.Time `json:"next_due"`
	// EstimatedDone is before when the run cannot be done, because a chunk is not due or
	// a budget not free until then; nil where nothing but the work itself takes time.
	EstimatedDone *time.Time `json:"estimated_done"`
	// EstimatedAtLeast says that there is more to pull than could be told.
	EstimatedAtLeast bool       `json:"estimated_at_least"`
	Registries       []Registry `json:"registries"`
	UnderWay         []Copy     `json:"under_way"` // the oldest first
	// Failures are kept under the mirror name, whichever run they come from.
	Failures Failures `json:"failures"`
	// Away are the registries that all that is left waits for because they are away. It
	// is empty where anything can be done.
	Away []string `json:"-"`
}

// Failures counts the failures that are kept under a mirror name. Whoever shows a status
// fills it in.
type Failures struct {
	Images     int `json:"images"`     // failed images of the list
	LeftList   int `json:"left_list"`  // failed images that have left the list
	Unreadable int `json:"unreadable"` // messages among the failures that are not records
}

// NotBefore moves EstimatedDone on to t, where it is sooner.
func (s *Status) NotBefore(t time.Time) {
	if s.EstimatedDone == nil || s.EstimatedDone.Before(t) {
		s.EstimatedDone = &t
	}
}

// Over reports whether nothing of the run is left to do.
func (s Status) Over() bool {
	return s.State != StateWaiting && s.State != StateRunning && s.State != StateSnoozed
}

// Tracker follows one run.
type Tracker struct {
	store    *Store
	watch    jetstream.KeyWatcher
	name, id string

	mu       sync.Mutex
	run      Run
	progress map[string]Progress // by <registry>.<token>
	revision map[string]uint64   // of each entry applied
	sure     map[string]uint64   // of each entry that the bucket's leader had like this, by key
	lost     int                 // chunks, by the word of the bucket's leader
}

// Track follows a run until Stop. It returns once it has read what is there.
func (s *Store) Track(ctx context.Context, name, id string) (*Tracker, error) {
	r, err := s.Get(ctx, name, id)
	if err != nil {
		return nil, err
	}
	t := &Tracker{store: s, name: name, id: r.ID, run: r, progress: map[string]Progress{}, revision: map[string]uint64{}, sure: map[string]uint64{}}
	if t.watch, err = t.read(ctx); err != nil {
		return nil, err
	}
	go func() {
		for entry := range t.watch.Updates() {
			if entry != nil {
				t.apply(entry)
			}
		}
	}()
	return t, nil
}

// read applies what is stored of the run, and returns the watch that tells what
// changes from then on.
func (t *Tracker) read(ctx context.Context) (jetstream.KeyWatcher, error) {
	prefix := t.name + "." + t.id
	watch, err := t.store.kv.WatchFiltered(ctx, []string{prefix, prefix + ".>"}, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("following run %s: %w", t.id, err)
	}
	for entry := range watch.Updates() {
		if entry == nil {
			return watch, nil
		}
		t.apply(entry)
	}
	// The watch was closed before it had told everything.
	return nil, fmt.Errorf("following run %s: %w", t.id, cmp.Or(context.Cause(ctx), errClosed))
}

// Stop ends following.
func (t *Tracker) Stop() { _ = t.watch.Stop() }

func (t *Tracker) apply(entry jetstream.KeyValueEntry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if entry.Revision() <= t.revision[entry.Key()] {
		return
	}
	t.revision[entry.Key()] = entry.Revision()
	key, ok := strings.CutPrefix(entry.Key(), t.name+"."+t.id+".")
	if !ok {
		if r, ok := parse(entry.Key(), entry.Value()); ok {
			t.run = r
		}
		return
	}
	if p, ok := parseProgress(entry.Value()); ok {
		t.progress[key] = p
	}
}

// Status tells how the run stands now.
func (t *Tracker) Status(ctx context.Context) (Status, error) {
	// One filter for plan, later and chunk: a message on its way from one to the
	// next is in the answer at least once.
	info, err := t.store.b.Stream.Info(ctx, jetstream.WithSubjectFilter(subject.OfRun(t.name, t.id)))
	var subjects map[string]uint64
	switch {
	case err == nil:
		subjects = info.State.Subjects
	case !errors.Is(err, jetstream.ErrStreamNotFound): // somebody has deleted it, with all that was in it
		return Status{}, fmt.Errorf("asking the broker for run %s: %w", t.id, err)
	}
	if len(subjects) == 0 {
		// The watch may be behind the stream, and the last word must not be wrong.
		watch, err := t.read(ctx)
		if err != nil {
			return Status{}, err
		}
		_ = watch.Stop()
	}
	st, missing := t.status(subjects)
	if len(missing) > 0 && (st.Over() || st.Chunks.Lost != t.lost || t.unsure(missing)) {
		if err := t.confirm(ctx, missing); err != nil {
			return Status{}, err
		}
		st, _ = t.status(subjects)
		t.lost = st.Chunks.Lost
	}
	return st, nil
}

// status returns how the run stands, given its messages in the stream, and which chunks
// have no message and seem not to be done, by registry and number; "" stands for those
// without a record.
func (t *Tracker) status(subjects map[string]uint64) (Status, map[string]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := Status{Name: t.name, Run: t.id, Started: t.run.Started, Registries: []Registry{}, UnderWay: []Copy{}}
	bases, messages := t.present(subjects, &st)
	updated, missing := t.count(bases, &st)
	for _, chunk := range t.held(messages) {
		missing[chunk] = true
	}
	st.Chunks.Total = t.run.Chunks
	st.State = t.state(st, len(bases) == 0)
	if st.Over() {
		st.EstimatedDone = nil
	} else {
		st.Registries = t.leftovers(messages)
	}
	if len(bases) == 0 && st.Over() {
		switch {
		case !updated.IsZero():
			st.Finished = &updated
		case st.Chunks.Total == 0: // there was nothing to do
			st.Finished = &st.Started
		}
		if ended := t.run.EndedAt; !ended.IsZero() && (st.Finished == nil || st.Finished.Before(ended)) {
			st.Finished = &ended
		}
	}
	return st, missing
}

// rank orders the states of a chunk's messages: the chunk is in the highest.
var rank = map[string]int{Dropped: 1, Snoozed: 1, StateWaiting: 2, Running: 3}

// present goes through the run's messages in the stream and returns the state of
// each chunk that has any, and the messages by the key of their progress.
func (t *Tracker) present(subjects map[string]uint64, st *Status) (bases map[string]string, messages map[string]subject.Address) {
	bases, messages = map[string]string{}, map[string]subject.Address{}
	away, others := map[string]bool{}, false
	for subj := range subjects {
		a, err := subject.ParseAddress(subj)
		if err != nil {
			continue
		}
		key := a.Registry + "." + a.Token
		messages[key] = a
		state, due := StateWaiting, time.Time{}
		switch {
		case strings.HasPrefix(subj, subject.Later+"."):
			state, due = Snoozed, t.progress[key].Due
		case strings.HasPrefix(subj, subject.Plan+"."):
			due = t.run.due(a.Number())
		case t.progress[key].State == Running:
			state = Running
			st.UnderWay = append(st.UnderWay, t.progress[key].copies()...)
		}
		if t.run.Ended != "" && state != Running {
			state, due = Dropped, time.Time{} // whoever receives it drops it
		}
		if !due.IsZero() {
			st.NotBefore(due)
			if st.NextDue == nil || due.Before(*st.NextDue) {
				st.NextDue = &due
			}
		}
		base := a.Registry + "." + a.Number()
		if rank[state] > rank[bases[base]] {
			bases[base] = state
		}
		if registry := t.progress[key].Away; state == Snoozed && registry != "" {
			away[registry] = true
		} else {
			others = true
		}
	}
	for _, chunk := range t.held(messages) {
		bases[chunk], others = Running, true
	}
	if !others {
		st.Away = slices.Sorted(maps.Keys(away))
	}
	slices.SortFunc(st.UnderWay, func(a, b Copy) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Destination, b.Destination))
	})
	for _, state := range bases {
		switch state {
		case Snoozed:
			st.Chunks.Snoozed++
		case StateWaiting:
			st.Chunks.Waiting++
		case Running:
			st.Chunks.Running++
		case Dropped:
			st.Chunks.Dropped++
		}
	}
	return bases, messages
}

// copiesKnownFor is how long copies under way count as such since a worker has last told
// of them, which it does every few seconds: one that has died is noticed within a minute.
const copiesKnownFor = time.Minute

// copies are those under way, as far as that is still known.
func (p Progress) copies() []Copy {
	if time.Since(p.Updated) > copiesKnownFor {
		return nil
	}
	return p.UnderWay
}

// publishing reports whether more of the run may be on its way.
func (t *Tracker) publishing() bool {
	return !t.run.Published && time.Since(t.run.Started) < publishing
}

func (t *Tracker) state(st Status, empty bool) string {
	switch {
	case t.run.Ended != "":
		return t.run.Ended
	case !empty && st.Chunks.Running > 0:
		return StateRunning
	case !empty && st.Chunks.Waiting > 0:
		return StateWaiting
	case !empty:
		return StateSnoozed
	case t.publishing():
		return StateWaiting
	case st.Chunks.Lost > 0:
		return StateLost
	case st.Images.Failed > 0:
		return StateFailed
	}
	return StateDone
}

// due is the time of a planned chunk.
func (r Run) due(token string) time.Time {
	number, err := strconv.Atoi(strings.SplitN(token, "p", 2)[0])
	if err != nil {
		return time.Time{}
	}
	return r.FirstDue.Add(time.Duration(number-1) * r.Interval)
}
