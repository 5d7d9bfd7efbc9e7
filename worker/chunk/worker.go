// Package chunk does the work of one chunk: resolve, compare, copy. It knows of
// registries, and of the broker only that failures are kept there.
package chunk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/meter"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/resolve"
)

const (
	// staleAfter is how long a digest is believed: a tag that was resolved
	// longer ago is looked up again before it is put, so that it never goes
	// backwards.
	staleAfter = 5 * time.Minute
	// requests bounds the small requests of a chunk that are under way at once.
	requests = 16
	// maxPause is how long a chunk is held while images wait for their next try.
	// What has to wait longer is snoozed.
	maxPause = 5 * time.Second
)

// Failures keeps what was given up.
type Failures interface {
	Add(ctx context.Context, name string, r failure.Record) error
	Subtract(ctx context.Context, name, registry, repository string, mirrored func(source string) bool) (int, error)
}

// Notes are what the workers of a fleet remember. Losing a note costs some requests.
type Notes interface {
	// Resolved notes that the chunk's run has resolved the entry.
	Resolved(ctx context.Context, c message.Chunk, entry message.Repository) error
	// Superseded reports whether a newer run has resolved the entry.
	Superseded(ctx context.Context, c message.Chunk, entry message.Repository) (bool, error)
	// NoteAbsent notes that an index has nothing of what is wanted, so that it is not pulled
	// again. Absent reports whether that was noted.
	NoteAbsent(ctx context.Context, digest reference.Digest, wanted platform.Wanted) error
	Absent(ctx context.Context, digest reference.Digest, wanted platform.Wanted) (bool, error)
}

// Observer is told of the work as it goes on.
type Observer interface {
	Image(registry, outcome string)
	Progress(images run.Tally, pulls int, bytes int64)
	// Copying is called when the copy of an image begins, with what counts its bytes,
	// and what it returns when the copy has ended.
	Copying(image, destination string, moved *meter.Meter) (ended func())
}

// Parts is everything that a worker needs. None is optional.
type Parts struct {
	// Connect returns what the chunks of a mirror name are worked off with. Their pulls
	// count for that name.
	Connect     func(mirrorName string) (resolve.Resolver, *mirror.Mirror)
	Failures    Failures
	Notes       Notes
	Registries  Registries
	Concurrency int  // copies at once
	MaxAttempts int  // of an image in a run
	Alone       bool // no other worker takes parts of a chunk
	// Backoff returns how long an image waits after this many tries.
	Backoff func(attempt int) time.Duration
	// Prepare is called with each chunk before work on it starts. An error is only logged.
	Prepare func(ctx context.Context, c message.Chunk) error
	Log     *slog.Logger
}

// ErrIncomplete is returned by New if a part is missing.
var ErrIncomplete = errors.New("a part of the worker is missing")

// Worker works off chunks. Only New makes one that works.
type Worker struct {
	Parts
	now func() time.Time
}

// New returns a worker made of the parts. If one is missing, the error is ErrIncomplete and
// names it.
func New(p Parts) (*Worker, error) {
	for name, missing := range map[string]bool{
		"Connect": p.Connect == nil, "Failures": p.Failures == nil, "Notes": p.Notes == nil, "Registries": p.Registries == nil,
		"Concurrency": p.Concurrency < 1, "MaxAttempts": p.MaxAttempts < 1,
		"Backoff": p.Backoff == nil, "Prepare": p.Prepare == nil, "Log": p.Log == nil,
	} {
		if missing {
			return nil, fmt.Errorf("%w: %s", ErrIncomplete, name)
		}
	}
	return &Worker{Parts: p, now: time.Now}, nil
}

// Delivery is a chunk as it came.
type Delivery struct {
	Chunk message.Chunk
	// Fresh deliveries may be believed: the first one of a message, and young.
	Fresh bool
	// Remainder is what an earlier delivery of the chunk has left.
	Remainder bool
	// Stopping is closed when no new copy may be started.
	Stopping <-chan struct{}
	Observer Observer
}

// task is one chunk under way.
type task struct {
	*Worker
	Delivery
	Resolver resolve.Resolver
	Mirror   *mirror.Mirror
	// work ends when a copy under way must end; the broker is still told then.
	work       context.Context
	log        *slog.Logger
	first      bool          // the first round: digests of a fresh delivery are young
	slots      chan struct{} // of small requests
	progress   progress
	mirrored   mirrored
	held       holdings
	entries    entries
	companions companions

	mu      sync.Mutex
	next    []message.Repository // for the next round
	after   time.Duration
	limited map[string]bool // registries that have limited us
	away    string          // the one of them that is away
	cutOff  bool            // one of them only is for us
	doubts  []doubt         // to be given up at the end of the round
	unknown []*job          // whose digests are looked up at their turn
	parts   [][]message.Repository
}

// Do works a delivery off. Images that fail are tried again, up to MaxAttempts;
// those that are given up are recorded before Do returns. When work ends, what is
// under way is left for later. An error means that the broker could not be told:
// the chunk must not be acknowledged.
func (w *Worker) Do(ctx, work context.Context, d Delivery) (Result, error) {
	t := &task{
		Worker: w, Delivery: d, work: work, first: true, slots: make(chan struct{}, requests),
		log: w.Log.With("run", d.Chunk.Run, "chunk", d.Chunk.Number),
	}
	t.Resolver, t.Mirror = w.Connect(d.Chunk.Name)
	if err := w.Prepare(ctx, d.Chunk); err != nil {
		t.log.Debug("what registries allow may be out of date", "error", err)
	}
	todo, err := t.wanted(ctx)
	if err != nil {
		return Result{}, err
	}
	for {
		now, then := t.admit(todo)
		if err := t.round(ctx, now); err != nil {
			return Result{}, err
		}
		if len(then) > 0 && len(t.parts) == 0 {
			todo = then
			continue
		}
		todo, t.next = slices.Concat(then, t.next), nil
		// Others wait for the parts.
		if len(todo) == 0 || len(t.parts) > 0 || !t.again(ctx) {
			break
		}
		t.after, t.first = 0, false
	}
	if err := t.judge(ctx, append(t.parts, todo)...); err != nil {
		return Result{}, err
	}
	if err := t.forgive(ctx); err != nil {
		return Result{}, err
	}
	t.note(func(p *progress) {
		for _, r := range slices.Concat(append(t.parts, todo)...) {
			p.images.Total -= len(r.Images) // whoever gets them counts them
		}
	})
	if t.stopping() {
		t.after = 0
	}
	return Result{Left: undated(todo), After: t.after, Away: t.away, CutOff: t.cutOff, Parts: t.parts}, nil
}

// undated takes the digests out that were looked up: nobody will know how old they
// are when the images' time comes.
func undated(left []message.Repository) []message.Repository {
	for _, r := range left {
		if !r.Digest.IsZero() {
			continue
		}
		for i := range r.Images {
			r.Images[i].Digest, r.Images[i].MediaType = reference.Digest{}, ""
		}
	}
	return left
}

// wanted leaves out what a newer run has resolved since: its remainders would
// only pile up on top of it.
func (t *task) wanted(ctx context.Context) ([]message.Repository, error) {
	var todo []message.Repository
	for _, r := range t.Chunk.Repositories {
		if (t.Remainder || len(r.Images) > 0) && !t.Chunk.Republished {
			superseded, err := t.Notes.Superseded(ctx, t.Chunk, r)
			if err != nil {
				return nil, err
			}
			if superseded {
				n := max(1, len(r.Images)) // a repository that was never listed counts as one
				t.log.Info("a newer run has taken over", "repository", r.Source, "images", n)
				t.count("skipped", n, func(p *progress) { p.images.Total += n; p.images.Skipped += n })
				continue
			}
		}
		t.note(func(p *progress) { p.images.Total += len(r.Images) })
		t.companions.expect(r, r.Images)
		todo = append(todo, r)
	}
	return todo, nil
}

// round resolves, compares and copies what there is to do, once. What is to be
// tried again is in t.next after it.
func (t *task) round(ctx context.Context, todo []message.Repository) error {
	start := t.now()
	resolved, err := t.resolveAll(ctx, todo)
	if err != nil {
		return err
	}
	jobs, err := t.compareAll(ctx, resolved, start)
	if err != nil {
		return err
	}
	if t.first && !t.Alone && len(jobs) > maxCopies {
		copies, others, err := t.sift(ctx, jobs)
		if err != nil {
			return err
		}
		if len(copies) > maxCopies {
			t.parts, jobs = parts(copies), others
		}
	}
	jobs, t.unknown = append(jobs, t.unknown...), nil
	if err := inFamilies(jobs, t.Concurrency, func(j *job) error { return t.begin(ctx, j) }); err != nil {
		return err
	}
	if err := t.accompany(ctx); err != nil {
		return err
	}
	return t.decide(ctx)
}

// forgive takes what was seen at the destination out of the failure records.
func (t *task) forgive(ctx context.Context) error {
	for repository, sources := range t.mirrored.repositories {
		n, err := t.Failures.Subtract(ctx, t.Chunk.Name, t.Chunk.Registry, repository.String(), func(s string) bool { return sources[s] })
		if err != nil {
			return err
		}
		if n > 0 {
			t.log.Info("images that had failed are mirrored", "repository", repository, "images", n)
		}
	}
	return nil
}

// count notes the outcome of n images.
func (t *task) count(outcome string, n int, change func(*progress)) {
	for range n {
		t.Observer.Image(t.Chunk.Registry, outcome)
	}
	t.note(change)
}

func (t *task) note(change func(*progress)) {
	t.progress.mu.Lock()
	defer t.progress.mu.Unlock()
	change(&t.progress)
	t.Observer.Progress(t.progress.images, t.progress.pulls, t.progress.bytes)
}
