// Package chunk does the work of one chunk: resolve, compare, copy. It knows of
// registries, and of the broker only that failures are kept there.
package chunk

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/outcome"
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

// Resolutions remembers which run resolved what last.
type Resolutions interface {
	// Resolved notes that the run has resolved the repository.
	Resolved(ctx context.Context, c message.Chunk, r message.Repository) error
	// Superseded reports whether a newer run has.
	Superseded(ctx context.Context, c message.Chunk, r message.Repository) (bool, error)
}

// Observer is told of the work as it goes on.
type Observer interface {
	Image(registry, outcome string)
	Progress(images run.Tally, pulls int, bytes int64)
}

// Worker works chunks off.
type Worker struct {
	Resolver    resolve.Resolver
	Mirror      *mirror.Mirror
	Failures    Failures
	Resolutions Resolutions
	Concurrency int // copies at once
	MaxAttempts int
	Backoff     func(attempt int) time.Duration
	Log         *slog.Logger
}

// Delivery is a chunk as it came.
type Delivery struct {
	Chunk message.Chunk
	// Fresh deliveries may be believed: the first one of a message, and young.
	Fresh bool
	// Stopping is closed when no new copy may be started.
	Stopping <-chan struct{}
	Observer Observer
}

// task is one chunk under way.
type task struct {
	*Worker
	Delivery
	// work ends when a copy under way must end; the broker is still told then.
	work     context.Context
	log      *slog.Logger
	first    bool // the first round: digests of a fresh delivery are young
	progress progress
	mirrored mirrored

	mu    sync.Mutex
	next  []message.Repository // for the next round
	after time.Duration
}

// Do works a delivery off. Images that fail are tried again, up to MaxAttempts;
// those that are given up are recorded before Do returns. When work ends, what is
// under way is left for later. An error means that the broker could not be told:
// the chunk must not be acknowledged.
func (w *Worker) Do(ctx, work context.Context, d Delivery) (Result, error) {
	t := &task{Worker: w, Delivery: d, work: work, first: true, log: w.Log.With("run", d.Chunk.Run, "chunk", d.Chunk.Number)}
	todo, err := t.wanted(ctx)
	if err != nil {
		return Result{}, err
	}
	for {
		if err := t.round(ctx, todo); err != nil {
			return Result{}, err
		}
		todo, t.next = t.next, nil
		if len(todo) == 0 || t.after > maxPause || !t.pause(ctx, t.after) {
			break
		}
		t.after, t.first = 0, false
	}
	if err := t.forgive(ctx); err != nil {
		return Result{}, err
	}
	t.note(func(p *progress) {
		for _, r := range todo {
			p.images.Total -= len(r.Images) // whoever gets them counts them
		}
	})
	if t.stopping() {
		t.after = 0
	}
	return Result{Left: todo, After: t.after}, nil
}

// wanted leaves out what a newer run has resolved since: its remainders would
// only pile up on top of it.
func (t *task) wanted(ctx context.Context) ([]message.Repository, error) {
	var todo []message.Repository
	for _, r := range t.Chunk.Repositories {
		t.note(func(p *progress) { p.images.Total += len(r.Images) })
		if len(r.Images) > 0 && !t.Chunk.Republished {
			superseded, err := t.Resolutions.Superseded(ctx, t.Chunk, r)
			if err != nil {
				return nil, err
			}
			if superseded {
				t.log.Info("a newer run has taken over", "repository", r.Source, "images", len(r.Images))
				t.count("skipped", len(r.Images), func(p *progress) { p.images.Skipped += len(r.Images) })
				continue
			}
		}
		todo = append(todo, r)
	}
	return todo, nil
}

// round resolves, compares and copies what there is to do, once. What is to be
// tried again is in t.next after it.
func (t *task) round(ctx context.Context, todo []message.Repository) error {
	resolved, err := t.resolveAll(ctx, todo)
	if err != nil {
		return err
	}
	jobs, err := t.compareAll(ctx, resolved)
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(t.Concurrency)
	for _, j := range jobs {
		group.Go(func() error { return t.copy(ctx, j) })
	}
	return group.Wait()
}

// later keeps images, or a repository that could not be resolved, for the next
// round.
func (t *task) later(r message.Repository, images []message.Image, after time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.after = max(t.after, after)
	for i := range t.next {
		n := &t.next[i]
		if len(images) > 0 && n.Source == r.Source && n.Tag == r.Tag && n.Digest == r.Digest && n.Destination == r.Destination {
			n.Images = append(n.Images, images...)
			return
		}
	}
	r.Images = images
	t.next = append(t.next, r)
}

// retry decides what becomes of a try that failed: true means that it is to be
// tried again, after the time that is returned. attempts is counted up where the
// try counts as one.
func (t *task) retry(err error, attempts *int) (after time.Duration, again bool) {
	switch outcome.Classify(err) {
	case outcome.Interrupted:
		return 0, true
	case outcome.Limited:
		// Being limited never fails an image.
		return max(outcome.RetryAfter(err), t.Backoff(*attempts+1)), true
	case outcome.Transient:
		*attempts++
		return t.Backoff(*attempts), *attempts < t.MaxAttempts
	}
	*attempts++
	return 0, false
}

// fail records images as given up, before anything else happens to the chunk.
func (t *task) fail(ctx context.Context, r message.Repository, images []message.Image, err error) error {
	if len(images) == 0 {
		t.note(func(p *progress) { p.images.Total++ })
	}
	record := failure.Of(t.Chunk, r, images, outcome.Reason(err))
	for _, f := range record.Images {
		t.log.Warn("gave up", "image", f.Source, "attempts", f.Attempts, "reason", f.Reason)
	}
	if err := t.Failures.Add(ctx, t.Chunk.Name, record); err != nil {
		return err
	}
	t.count("failed", len(record.Images), func(p *progress) { p.images.Failed += len(record.Images) })
	return nil
}

// forgive takes what was seen at the destination out of the failure records.
func (t *task) forgive(ctx context.Context) error {
	for repository, sources := range t.mirrored.repositories {
		n, err := t.Failures.Subtract(ctx, t.Chunk.Name, t.Chunk.Registry, repository, func(s string) bool { return sources[s] })
		if err != nil {
			return err
		}
		if n > 0 {
			t.log.Info("mirrored at last", "repository", repository, "images", n)
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

func (t *task) stopping() bool {
	select {
	case <-t.Stopping:
		return true
	default:
		return false
	}
}

// pause waits between two rounds; false where the worker is to stop.
func (t *task) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return !t.stopping()
	case <-t.Stopping:
		return false
	case <-ctx.Done():
		return false
	}
}

// Backoff is the pause before the next try: 1, 2, 4 … seconds, a quarter more or
// less so that the tries of many workers spread, at most 5 minutes.
func Backoff(attempt int) time.Duration {
	const most = 5 * time.Minute
	d := min(most, time.Second<<min(attempt-1, 16))
	return jitter(d)
}
