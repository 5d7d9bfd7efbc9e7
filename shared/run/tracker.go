package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	// Publishing is the longest time between the entry of a plan in the bucket and its messages
	// in the stream.
	Publishing = 2 * time.Minute
	// workingFor is how long a worker counts as busy with a chunk after it has recorded
	// progress. Workers record progress every few seconds.
	workingFor = time.Minute
)

// Tracker follows one run. It is safe for concurrent use.
type Tracker struct {
	store    *Store
	name, id string

	mu       sync.Mutex
	run      Run
	created  time.Time           // when the bucket was
	progress map[string]Progress // by <registry>.<token>
	revision uint64              // up to which progress was read
}

// Track returns a tracker of a run or, if id is empty, of the newest run of the mirror name.
func (s *Store) Track(ctx context.Context, name, id string) (*Tracker, error) {
	r, err := s.Get(ctx, name, id)
	if err != nil {
		return nil, err
	}
	return &Tracker{store: s, name: name, id: r.ID, run: r, progress: map[string]Progress{}}, nil
}

// Status returns the state of the run.
func (t *Tracker) Status(ctx context.Context) (Status, error) {
	// One filter for plan, later and chunk, so that a message that moves between them is in the
	// answer.
	info, err := t.store.b.Stream.Info(ctx, jetstream.WithSubjectFilter(subject.OfRun(t.name, t.id)))
	var subjects map[string]uint64
	switch {
	case err == nil:
		subjects = info.State.Subjects
	case !errors.Is(err, jetstream.ErrStreamNotFound): // it was deleted, with all messages
		return Status{}, fmt.Errorf("reading the messages of run %s: %w", t.id, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	// Records are read after the messages. A worker records that a chunk is done before it
	// acknowledges the chunk, so a chunk with neither a message nor such a record is lost.
	if err := t.read(ctx); err != nil {
		return Status{}, err
	}
	return t.status(subjects), nil
}

// read reads the changes of the run.
func (t *Tracker) read(ctx context.Context) error {
	bucket, err := t.store.b.JS.Stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("reading the progress of run %s: %w", t.id, err)
	}
	if created := bucket.CachedInfo().Created; !created.Equal(t.created) {
		t.created, t.revision = created, 0 // a new bucket has other revisions
	}
	e, err := t.store.entry(ctx, t.name, t.id)
	switch {
	case err == nil:
		t.run = e.Run
	case !errors.Is(err, ErrNotFound): // it has expired, or the bucket was recreated
		return err
	}
	own := t.name + "." + t.id + "."
	t.revision, err = t.store.b.Entries(ctx, Bucket, own+">", t.revision, func(e jetstream.KeyValueEntry) {
		if p, ok := parseProgress(e.Value()); ok {
			t.progress[strings.TrimPrefix(e.Key(), own)] = p
		}
	})
	return err
}

// status returns the state of the run, given its messages in the stream.
func (t *Tracker) status(subjects map[string]uint64) Status {
	st := Status{Name: t.name, Run: t.id, Started: t.run.Started, Registries: []Registry{}, UnderWay: []Copy{}, Partial: t.run.Partial, Warnings: t.run.Warnings, FailedNamespaces: t.run.FailedNamespaces}
	bases, messages := t.present(subjects, &st)
	updated := t.count(bases, &st)
	st.Chunks.Total = t.run.Chunks
	st.State = t.state(st, len(bases) == 0)
	if st.Over() {
		st.EstimatedDone = nil
	} else {
		st.Registries, st.Unresolved = t.leftovers(messages)
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
	return st
}

// rank orders the states of a chunk's messages. The state of the chunk is the highest.
var rank = map[string]int{Dropped: 1, Snoozed: 1, StateWaiting: 2, Running: 3}

// present counts the chunks that have messages in the stream. It returns the state of each such
// chunk, and the messages by the key of their progress.
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
		default:
			st.WorkerMissing = t.run.Ended == ""
		}
		if t.run.Ended != "" && state != Running {
			state, due = Dropped, time.Time{} // the worker that receives it drops it
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
		st.Chunks.add(state)
	}
	return bases, messages
}

// add counts a chunk that has messages in the stream.
func (c *Chunks) add(state string) {
	switch state {
	case Snoozed:
		c.Snoozed++
	case StateWaiting:
		c.Waiting++
	case Running:
		c.Running++
	case Dropped:
		c.Dropped++
	}
}

// publishing reports whether the planner may still be publishing the run.
func (t *Tracker) publishing() bool {
	return !t.run.Published && time.Since(t.run.Started) < Publishing
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
	case st.Images.Failed > 0, len(st.FailedNamespaces) > 0:
		return StateFailed
	}
	return StateDone
}

// held returns the chunks that workers are busy with although their messages were deleted. The
// workers finish these chunks.
func (t *Tracker) held(messages map[string]subject.Address) (bases []string) {
	for key, p := range t.progress {
		if _, ok := messages[key]; !ok && p.State == Running && time.Since(p.Updated) < workingFor {
			bases = append(bases, base(key))
		}
	}
	return bases
}

// base returns the registry and the number of the chunk that a record belongs to.
func base(key string) string {
	registry, token, _ := strings.Cut(key, ".")
	return registry + "." + subject.Address{Token: token}.Number()
}

// count sums up the progress, and counts the chunks that no longer have a message. It returns the
// time of the last progress.
func (t *Tracker) count(present map[string]string, st *Status) (updated time.Time) {
	over := map[string]string{} // chunks that have no message, with their last state
	replaced := t.replaced()
	for key, p := range t.progress {
		chunk := base(key)
		if present[chunk] != "" || p.Over() || !replaced(key) {
			st.Images.add(p.Images)
			if present[chunk] == "" && worst[p.State] >= worst[over[chunk]] {
				over[chunk] = p.State
			}
		}
		st.Pulls += p.Pulls
		st.Bytes += p.Bytes
		if p.Updated.After(updated) {
			updated = p.Updated
		}
	}
	for _, state := range over {
		switch {
		case state == Done:
			st.Chunks.Done++
		case state == Dropped || t.run.Ended != "": // whether or not that was recorded
			st.Chunks.Dropped++
		default:
			st.Chunks.Lost++
		}
	}
	if unrecorded := t.run.Chunks - len(over) - len(present); unrecorded > 0 {
		if t.run.Ended != "" {
			st.Chunks.Dropped += unrecorded
		} else if !t.publishing() {
			st.Chunks.Lost += unrecorded
		}
	}
	return updated
}

// replaced returns a function that reports whether a recorded message is not needed, because another
// delivery has finished the message that it was to replace. If the worker was killed after it had
// recorded the message, the message was perhaps never published. Records of older workers do not
// show that.
func (t *Tracker) replaced() func(key string) bool {
	marks, unmarked := map[string]bool{}, map[string]bool{} // of deliveries that are done; chunks
	for key, p := range t.progress {
		if p.Over() {
			marks[p.Mark] = true
			unmarked[base(key)] = unmarked[base(key)] || p.Mark == ""
		}
	}
	return func(key string) bool {
		_, token, _ := strings.Cut(key, ".")
		mark := subject.Address{Token: token}.Mark()
		return mark != "" && !marks[mark] && !unmarked[base(key)]
	}
}

// worst orders the last states of the messages of a chunk that has no message any more. The worst
// is the state of the chunk. If it is running or snoozed, the chunk is lost.
var worst = map[string]int{Done: 1, Dropped: 2, Running: 3, Snoozed: 3}

// left is the work that a run has done and has left at one registry.
type left struct {
	resolved, unresolved int // chunks; a chunk is unresolved if a part of it is
	images               int // that are resolved and have no outcome
	handled              int // images with another outcome than unchanged
	pulls                int // so far
}

// toPull estimates the remaining pulls. Each image costs as many as the average of the images so
// far, and each unresolved chunk as many as a resolved one. If atLeast is true, nothing is known to
// compare with, and n is a lower bound.
func (l left) toPull() (n int, atLeast bool) {
	each := 1.0 // pulls of an image; an index takes more
	if l.handled > 0 {
		each = float64(l.pulls) / float64(l.handled)
	}
	known := each * float64(l.images)
	all := known
	if l.resolved > 0 {
		all += (float64(l.pulls) + known) / float64(l.resolved) * float64(l.unresolved)
	}
	return int(math.Ceil(all)), l.images > 0 && l.handled == 0 || l.unresolved > 0 && l.resolved == 0
}

// leftovers returns the registries that the run has to pull from, sorted by name, and the number of
// unresolved chunks. messages are those of the run in the stream.
func (t *Tracker) leftovers(messages map[string]subject.Address) (rows []Registry, pending int) {
	unresolved := map[string]bool{} // chunks
	all := map[string]*left{}
	of := func(registry string) *left {
		if all[registry] == nil {
			all[registry] = &left{}
		}
		return all[registry]
	}
	chunks := map[string]string{} // with their registry
	for key, a := range messages {
		images := t.progress[key].Images
		of(a.Registry).images += images.Total - images.Ended()
		chunk := a.Registry + "." + a.Number()
		chunks[chunk] = a.Registry
		unresolved[chunk] = unresolved[chunk] || images.Total == 0
	}
	for key, p := range t.progress {
		registry, token, _ := strings.Cut(key, ".")
		chunks[registry+"."+subject.Address{Token: token}.Number()] = registry
		l := of(registry)
		l.pulls += p.Pulls
		l.handled += p.Images.Ended() - p.Images.Unchanged
	}
	for chunk, registry := range chunks {
		if unresolved[chunk] {
			of(registry).unresolved++
			pending++
		} else {
			of(registry).resolved++
		}
	}
	rows = []Registry{}
	for registry, l := range all {
		name, ok := subject.Address{Registry: registry}.RegistryName()
		if n, atLeast := l.toPull(); ok && (n > 0 || atLeast) {
			rows = append(rows, Registry{Registry: name, ToPull: n, ToPullAtLeast: atLeast})
		}
	}
	slices.SortFunc(rows, func(a, b Registry) int { return cmp.Compare(a.Registry, b.Registry) })
	return rows, pending
}
