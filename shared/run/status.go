package run

import (
	"context"
	"encoding/json"
	"fmt"
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
}

// Registry is what a source registry allows.
type Registry struct {
	Registry    string     `json:"registry"`
	Limit       int        `json:"limit"`
	Window      string     `json:"window"`
	Spent       int        `json:"spent"`
	ClosedUntil *time.Time `json:"closed_until"`
	Reason      string     `json:"reason"`
	NextSlot    *time.Time `json:"next_slot"`
}

// Status is how a run stands. Its JSON is part of the contract.
type Status struct {
	Name       string     `json:"name"`
	Run        string     `json:"run"`
	State      string     `json:"state"`
	Chunks     Chunks     `json:"chunks"`
	Images     Tally      `json:"images"`
	Pulls      int        `json:"pulls"`
	Bytes      int64      `json:"bytes"`
	Started    time.Time  `json:"started"`
	Finished   *time.Time `json:"finished"`
	NextDue    *time.Time `json:"next_due"`
	Registries []Registry `json:"registries"`
}

// Over reports whether nothing of the run is left to do.
func (s Status) Over() bool {
	return s.State != StateWaiting && s.State != StateRunning && s.State != StateSnoozed
}

// Tracker follows one run.
type Tracker struct {
	store *Store
	watch jetstream.KeyWatcher

	mu       sync.Mutex
	run      Run
	progress map[string]Progress // by <registry>.<token>
}

// Track follows a run until Stop. It returns once it has read what is there.
func (s *Store) Track(ctx context.Context, name, id string) (*Tracker, error) {
	r, err := s.Get(ctx, name, id)
	if err != nil {
		return nil, err
	}
	prefix := name + "." + r.ID
	watch, err := s.kv.WatchFiltered(ctx, []string{prefix, prefix + ".>"}, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("following run %s: %w", r.ID, err)
	}
	t := &Tracker{store: s, watch: watch, run: r, progress: map[string]Progress{}}
	for entry := range watch.Updates() {
		if entry == nil {
			break
		}
		t.apply(entry)
	}
	go func() {
		for entry := range watch.Updates() {
			if entry != nil {
				t.apply(entry)
			}
		}
	}()
	return t, ctx.Err()
}

// Stop ends following.
func (t *Tracker) Stop() { _ = t.watch.Stop() }

func (t *Tracker) apply(entry jetstream.KeyValueEntry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key, ok := strings.CutPrefix(entry.Key(), t.run.Name+"."+t.run.ID+".")
	if !ok {
		_ = json.Unmarshal(entry.Value(), &t.run)
		return
	}
	var p Progress
	if json.Unmarshal(entry.Value(), &p) == nil {
		t.progress[key] = p
	}
}

// Status tells how the run stands now.
func (t *Tracker) Status(ctx context.Context) (Status, error) {
	// One filter for plan, later and chunk: a message on its way from one to the
	// next is in the answer at least once.
	info, err := t.store.b.Stream.Info(ctx, jetstream.WithSubjectFilter(subject.OfRun(t.run.Name, t.run.ID)))
	if err != nil {
		return Status{}, fmt.Errorf("asking the broker for run %s: %w", t.run.ID, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	st := Status{Name: t.run.Name, Run: t.run.ID, Started: t.run.Started, Registries: []Registry{}}
	bases := t.present(info.State.Subjects, &st)
	updated := t.count(bases, &st)
	st.Chunks.Total = t.run.Chunks
	st.State = t.state(st, len(bases) == 0)
	if len(bases) == 0 && st.Over() && !updated.IsZero() {
		st.Finished = &updated
	}
	return st, nil
}

// rank orders the states of a chunk's messages: the chunk is in the highest.
var rank = map[string]int{Snoozed: 1, StateWaiting: 2, Running: 3}

// present goes through the run's messages in the stream and returns the state of
// each chunk that has any.
func (t *Tracker) present(subjects map[string]uint64, st *Status) map[string]string {
	bases := map[string]string{}
	for subj := range subjects {
		a, err := subject.ParseAddress(subj)
		if err != nil {
			continue
		}
		key := a.Registry + "." + a.Token
		state, due := StateWaiting, time.Time{}
		switch {
		case strings.HasPrefix(subj, subject.Later+"."):
			state, due = Snoozed, t.progress[key].Due
		case strings.HasPrefix(subj, subject.Plan+"."):
			due = t.run.due(a.Number())
		case t.progress[key].State == Running:
			state = Running
		}
		if !due.IsZero() && (st.NextDue == nil || due.Before(*st.NextDue)) {
			st.NextDue = &due
		}
		base := a.Registry + "." + a.Number()
		if rank[state] > rank[bases[base]] {
			bases[base] = state
		}
	}
	for _, state := range bases {
		switch state {
		case Snoozed:
			st.Chunks.Snoozed++
		case StateWaiting:
			st.Chunks.Waiting++
		case Running:
			st.Chunks.Running++
		}
	}
	return bases
}

// count sums up the progress and returns when it was last made.
func (t *Tracker) count(present map[string]string, st *Status) (updated time.Time) {
	done := map[string]bool{}
	for key, p := range t.progress {
		registry, token, _ := strings.Cut(key, ".")
		base := registry + "." + subject.Address{Token: token}.Number()
		if present[base] == "" {
			done[base] = true
		}
		st.Images.add(p.Images)
		st.Pulls += p.Pulls
		st.Bytes += p.Bytes
		if p.Updated.After(updated) {
			updated = p.Updated
		}
	}
	st.Chunks.Done = len(done)
	return updated
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
	case !t.run.Published && time.Since(t.run.Started) < publishing:
		return StateWaiting
	case st.Chunks.Done < st.Chunks.Total:
		// The planner that dropped its messages did not live to say so.
		return StateSuperseded
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
