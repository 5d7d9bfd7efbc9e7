package chunk

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// execution is the work on one delivery. It implements compare.Cases, which carry out the
// verdicts on jobs, and compare.Asker, which sends the small requests.
type execution struct {
	worker   *Worker
	delivery Delivery
	resolver resolve.Resolver
	mirror   *mirror.Mirror
	comparer *compare.Comparer
	// work ends when running copies must end. Requests to the broker may still be sent then.
	work     context.Context
	log      *slog.Logger
	first    bool // this is the first round, in which digests of a fresh delivery are current
	progress progress
	mirrored mirrored
	entries  entries

	mu      sync.Mutex
	next    []message.Repository // for the next round
	after   time.Duration
	limited map[string]bool // registries that have limited this worker, or are closed
	away    string          // the registry among them that is away
	cutOff  bool            // this worker alone does not reach one of them
	doubts  []doubt         // are decided at the end of the round
	lazy    []*compare.Job  // have digests that are looked up when it is their turn
	bearers []compare.Bearer
	// distrusted are the jobs that may not be mirrored for now, with the reasons.
	distrusted map[*compare.Job]error
	subjects   map[contentAt]*compare.Job              // images that may have signatures
	lists      map[reference.Digest][]reference.Digest // manifests of indexes at destinations
	parts      [][]message.Repository

	counts sync.Map // results of counted, by source
}

// Do works off a delivery. It tries each image up to MaxAttempts times, and records those that
// fail before it returns. When work ends, it leaves the images that are not done. If it returns
// an error, the broker does not answer, and the chunk must not be acknowledged.
func (w *Worker) Do(ctx, work context.Context, d Delivery) (Result, error) {
	e := &execution{
		worker: w, delivery: d, work: work, first: true,
		log:        w.Log.With("run", d.Chunk.Run, "chunk", d.Chunk.Number),
		entries:    entries{known: map[compare.Entry]*entryState{}},
		mirrored:   mirrored{repositories: map[reference.Repository]map[string]bool{}},
		limited:    map[string]bool{},
		distrusted: map[*compare.Job]error{},
		subjects:   map[contentAt]*compare.Job{},
		lists:      map[reference.Digest][]reference.Digest{},
	}
	var err error
	if e.resolver, e.mirror, err = w.Connect(ctx, d.Chunk); err != nil {
		return Result{}, err
	}
	e.comparer = e.newComparer(ctx)
	todo, err := e.outstanding(ctx)
	if err != nil {
		return Result{}, err
	}
	for {
		now, then := e.admit(todo)
		if err := e.round(ctx, now); err != nil {
			return Result{}, err
		}
		if len(then) > 0 && len(e.parts) == 0 {
			todo = then
			continue
		}
		todo, e.next = slices.Concat(then, e.next), nil
		// Other workers wait for the parts.
		if len(todo) == 0 || len(e.parts) > 0 || !e.pause(ctx) {
			break
		}
		e.after, e.first = 0, false
	}
	if err := e.judgeEntries(ctx, append(e.parts, todo)...); err != nil {
		return Result{}, err
	}
	if err := e.forgive(ctx); err != nil {
		return Result{}, err
	}
	if err := e.remember(ctx); err != nil {
		return Result{}, err
	}
	e.tally(func(p *progress) {
		for _, r := range slices.Concat(append(e.parts, todo)...) {
			p.images.Total -= len(r.Images) // the next delivery counts them
		}
	})
	if e.stopping() {
		e.after = 0
	}
	return Result{Left: undated(todo), After: e.after, Away: e.away, CutOff: e.cutOff, Parts: e.parts}, nil
}

// newComparer returns the comparer of the delivery. It reads notes also after work has ended.
func (e *execution) newComparer(ctx context.Context) *compare.Comparer {
	return &compare.Comparer{Mirror: e.mirror, Asker: e, Notes: lasting{ctx, e.worker.Notes}, Now: e.worker.now}
}

// counted returns the note about the listing of a source, as it was before this delivery.
func (e *execution) counted(ctx context.Context, source reference.Repository) (compare.Listing, error) {
	if known, ok := e.counts.Load(source); ok {
		return known.(compare.Listing), nil
	}
	noted, err := e.worker.Notes.Counted(ctx, source)
	if err == nil {
		e.counts.Store(source, noted)
	}
	return noted, err
}

// lasting reads notes with a context that outlasts the caller's.
type lasting struct {
	ctx   context.Context
	notes compare.Notes
}

// Absent implements compare.Notes.
func (l lasting) Absent(_ context.Context, digest reference.Digest, wanted platform.Wanted) (bool, error) {
	return l.notes.Absent(l.ctx, digest, wanted)
}

// Held implements compare.Notes.
func (l lasting) Held(_ context.Context, destination reference.Repository) (map[reference.Tag]compare.Held, error) {
	return l.notes.Held(l.ctx, destination)
}

// Sighted implements compare.Notes.
func (l lasting) Sighted(_ context.Context, source reference.Repository) (map[reference.Tag]resolve.Sighting, error) {
	return l.notes.Sighted(l.ctx, source)
}

// Released implements compare.Notes.
func (l lasting) Released(_ context.Context, source reference.Repository, digest reference.Digest) (bool, error) {
	return l.notes.Released(l.ctx, source, digest)
}

// remember writes the notes about immutable tags and about the ages of tags.
func (e *execution) remember(ctx context.Context) error {
	for destination, tags := range e.comparer.Seen() {
		if err := e.worker.Notes.NoteHeld(ctx, destination, tags); err != nil {
			return err
		}
	}
	for source, tags := range e.comparer.Sightings() {
		if err := e.worker.Notes.NoteSightings(ctx, source, tags); err != nil {
			return err
		}
	}
	return nil
}

// undated removes the digests that were looked up, because they may be old when they are needed.
// Digests in the list stay.
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

// outstanding returns the entries of the chunk, without those that a newer run has resolved. That
// run mirrors them, too.
func (e *execution) outstanding(ctx context.Context) ([]message.Repository, error) {
	var todo []message.Repository
	for _, r := range e.delivery.Chunk.Repositories {
		if (e.delivery.Remainder || len(r.Images) > 0) && !e.delivery.Chunk.Republished {
			superseded, err := e.worker.Notes.Superseded(ctx, e.delivery.Chunk, r)
			if err != nil {
				return nil, err
			}
			if superseded {
				n := max(1, len(r.Images)) // a repository that was not listed counts as one
				e.log.Info("a newer run has taken over", "repository", r.Source, "images", n)
				e.tally(func(p *progress) { p.images.Total += n })
				e.count(run.Skipped, n)
				continue
			}
		}
		e.tally(func(p *progress) { p.images.Total += len(r.Images) })
		e.comparer.Expect(r, r.Images)
		todo = append(todo, r)
	}
	return todo, nil
}

// round resolves and compares repositories, and carries out their jobs, once. After it, e.next
// has the images that are to be tried again.
func (e *execution) round(ctx context.Context, todo []message.Repository) error {
	start := e.worker.now()
	resolved, err := e.resolveAll(ctx, todo)
	if err != nil {
		return err
	}
	jobs, err := e.compare(resolved, start)
	if err != nil {
		return err
	}
	if e.first && !e.worker.Alone {
		var copies, others []*compare.Job
		for _, j := range jobs {
			if j.IsLacking() && j.Bearer == nil {
				copies = append(copies, j)
			} else {
				others = append(others, j)
			}
		}
		if len(copies) > maxCopies {
			e.parts = parts(copies)
			jobs = e.drop(others, func(j *compare.Job) bool { return j.Bearer != nil && j.Bearer.IsLacking() })
		}
	}
	jobs, e.lazy = append(jobs, e.lazy...), nil
	if err := e.carryOut(ctx, jobs); err != nil {
		return err
	}
	if err := e.accompany(ctx); err != nil {
		return err
	}
	return e.decideDoubts(ctx)
}

// errLeft is returned for a request that was not sent.
var errLeft = errors.New("left for later")

// Ask implements compare.Asker. It sends the request once. It does not send it if the worker
// stops, or if the registry has limited this worker.
func (e *execution) Ask(_ context.Context, entry message.Repository, repository reference.Repository, request func() error) error {
	e.worker.slots <- struct{}{}
	defer func() { <-e.worker.slots }()
	if e.stopping() || e.isLimited(repository) {
		return errLeft
	}
	err := request()
	if outcome.Classify(err) == outcome.Limited {
		e.limit(entry, err)
	}
	return err
}

// Pulled implements compare.Asker.
func (e *execution) Pulled() { e.tally(func(p *progress) { p.pulls++ }) }

// forgive removes mirrored images from the failure records.
func (e *execution) forgive(ctx context.Context) error {
	of := e.delivery.Chunk
	if any, err := e.worker.Failures.Any(ctx, of.Name, of.Registry); err != nil || !any {
		return err
	}
	for repository, sources := range e.mirrored.repositories {
		n, err := e.worker.Failures.Subtract(ctx, of.Name, of.Registry, repository.String(), func(s string) bool { return sources[s] })
		if err != nil {
			return err
		}
		if n > 0 {
			e.log.Info("images that had failed are mirrored", "repository", repository, "images", n)
		}
	}
	return nil
}

// count counts n images with an outcome.
func (e *execution) count(o run.Outcome, n int) {
	for range n {
		e.delivery.Observer.Image(e.delivery.Chunk.Registry, o)
	}
	e.tally(func(p *progress) { *p.images.Of(o) += n })
}

func (e *execution) tally(change func(*progress)) {
	e.progress.mu.Lock()
	defer e.progress.mu.Unlock()
	change(&e.progress)
	e.delivery.Observer.Progress(e.progress.images, e.progress.pulls, e.progress.bytes)
}

// progress is the sums of the delivery so far.
type progress struct {
	mu     sync.Mutex
	images run.Tally
	pulls  int
	bytes  int64
}
