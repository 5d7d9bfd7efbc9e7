// Package outage finds out whether errors are the fault of a registry rather than an image: the
// registry is away, full or read-only, or refuses the credentials. It then closes the registry for
// the fleet, and permits one probe at a time until the registry works again.
package outage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
)

// enough is how many images in a row must fail for the same reason before their registry is
// suspected; if the reason is a refused permission, how many repositories. A larger number would
// cost time in an outage. A smaller one could close an otherwise unused registry because of a few
// broken images. One image is enough if the registry answers that it is full or read-only, or
// fails before it knows which image is pushed.
const enough = 3

// renewal is how often a prober renews its lease, which lasts several times as long.
const renewal = 3 * time.Second

// Tracker watches a worker's requests to registries. It is safe for concurrent use.
type Tracker struct {
	Budget *budget.Store
	// Registry sends the tracker's own requests. Guard must not be its guard.
	Registry *registry.Client
	// IsDestination reports whether a registry is a destination. Those may refuse look-ups in
	// repositories that do not exist yet. It is optional.
	IsDestination func(registry string) bool
	// Recorded returns up to n images that any worker has mirrored from or to a registry, each of
	// another repository, and none of those to be left out. The tracker needs them if this worker
	// knows no image that works. It is optional.
	Recorded func(ctx context.Context, registry string, without map[reference.Repository]bool, n int) ([]Specimen, error)
	Log      *slog.Logger

	mu       sync.Mutex
	streaks  map[failing]*streak
	own      map[owner]time.Time   // until when
	known    map[string][]Specimen // by registry
	recalled map[string]time.Time  // by registry: when Recorded was last asked
	alive    map[string]time.Time  // last request that a registry answered
	trusted  map[string]bool       // registries that have worked
	judging  map[string]*semaphore.Weighted
	probings map[string]*semaphore.Weighted
}

// place is an activity at a registry.
type place struct {
	registry string // docker.io for all hosts of Docker Hub
	activity budget.Activity
}

// subject is an image, or a repository as a whole.
type subject struct {
	repository reference.Repository
	image      reference.TagOrDigest // nil: the repository
}

// Guard is the guard of a client; see registry.Options.
func (t *Tracker) Guard(ctx context.Context, request registry.Request, send func() error) error {
	p := place{request.Repository.Registry(), budget.Look}
	of := subject{request.Repository, request.Reference}
	switch {
	case request.Op == registry.OpPut:
		p.activity = budget.Push
	case request.Op == registry.OpGetBlob:
		p.activity = budget.Fetch
	}
	if request.Blob { // an image has several, but counts once
		of.image = imageOf(ctx)
	}
	leave, err := t.enter(ctx, p, request.Repository)
	if err != nil {
		return err
	}
	defer leave()
	started := time.Now()
	err = send()
	suspicion, suspected := t.suspect(err)
	switch {
	case suspected:
		suspicion.Blind = request.Opens
		return t.failed(ctx, p, of, suspicion, started, err)
	case err == nil && p.activity == budget.Push && request.Blob:
		// The registry may still refuse the manifest.
	case err == nil, p.activity == budget.Look && answered(err):
		t.worked(p, started)
	}
	return err
}

// imageKey is the key of a context's image.
type imageKey struct{}

// WithImage returns a context whose requests for blobs belong to the image with this digest.
func WithImage(ctx context.Context, digest reference.Digest) context.Context {
	return context.WithValue(ctx, imageKey{}, digest)
}

// imageOf returns the context's image, or nil if it has none.
func imageOf(ctx context.Context) reference.TagOrDigest {
	if digest, ok := ctx.Value(imageKey{}).(reference.Digest); ok {
		return digest
	}
	return nil
}

// answered reports whether an error is an answer of the registry other than 429.
func answered(err error) bool {
	var asked *registry.Error
	return errors.As(err, &asked) && asked.Status != 0 && outcome.Classify(err) != outcome.Limited
}

// GuardCopy calls run, which copies the manifest with this digest in a skopeo process, if both
// registries are open. Its error wraps a *budget.SpentError if one of them is closed.
func (t *Tracker) GuardCopy(ctx context.Context, source, destination reference.Repository, digest reference.Digest, run func(context.Context) error) error {
	from, to := place{source.Registry(), budget.Fetch}, place{destination.Registry(), budget.Push}
	leaveSource, err := t.enter(ctx, from, source)
	if err != nil {
		return err
	}
	defer leaveSource()
	leaveDestination, err := t.enter(ctx, to, destination)
	if err != nil {
		return err
	}
	defer leaveDestination()
	started := time.Now()
	err = run(ctx)
	suspicion, suspected := t.suspect(err)
	switch {
	case err == nil:
		t.worked(from, started)
		t.worked(to, started)
		return nil
	case suspected && suspicion.Destination:
		err = t.failed(ctx, to, subject{destination, digest}, suspicion, started, err)
	case suspected:
		err = t.failed(ctx, from, subject{source, digest}, suspicion, started, err)
	}
	if outcome.Classify(err) != outcome.Transient && !outcome.Missing(err) {
		return err
	}
	// If one side does not answer, skopeo's error may name the other side.
	for _, repository := range []reference.Repository{source, destination} {
		if closed := spent(t.reach(ctx, repository, started, false)); closed != nil {
			return fmt.Errorf("%w: %w", closed, err)
		}
	}
	return err
}

// Open returns a *budget.SpentError if the registry of one of these repositories is closed, and
// otherwise nil: work with them may begin. probing reports whether this worker probes one of the
// registries, which is away; then only little work should begin.
func (t *Tracker) Open(ctx context.Context, repositories ...reference.Repository) (probing bool, err error) {
	for _, repository := range repositories {
		name := repository.Registry()
		waits, err := t.permit(ctx, name)
		if err != nil {
			return false, err
		}
		if waits == budget.Answer {
			leave, err := t.enter(ctx, place{name, waits}, repository)
			if err != nil {
				return false, err
			}
			leave()
			continue
		}
		probing = probing || waits != ""
	}
	return probing, nil
}

// lately is how long a registry counts as alive after an answer.
const lately = 5 * time.Second

// Blames returns a *budget.SpentError if an error may be the fault of a registry that is away now,
// and otherwise nil. It sends a request to find out whether the registry is alive.
func (t *Tracker) Blames(ctx context.Context, err error) error {
	suspicion, suspected := t.suspect(err)
	if !suspected && !outcome.Missing(err) {
		return nil
	}
	if away := t.Budget.IsAway(suspicion.Registry); away != nil {
		return away
	}
	if asked := (*registry.Error)(nil); errors.As(err, &asked) {
		if closed := spent(t.reach(ctx, asked.Repository, time.Now().Add(-lately), errors.Is(err, registry.ErrPage))); closed != nil {
			return closed
		}
	}
	return nil
}

// suspect returns the suspicion that an error raises about its registry. An untrusted certificate
// raises one only if the registry has worked before; otherwise, a setting is usually missing.
func (t *Tracker) suspect(err error) (outcome.Suspicion, bool) {
	if err == nil {
		return outcome.Suspicion{}, false
	}
	suspicion, suspected := outcome.Suspect(err)
	if suspected || !outcome.Untrusted(err) {
		return suspicion, suspected
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return suspicion, t.trusted[suspicion.Registry]
}

// spent returns the *budget.SpentError in an error, or nil.
func spent(err error) *budget.SpentError {
	found, _ := errors.AsType[*budget.SpentError](err)
	return found
}

// permit returns the activity that shows whether a registry works again, if it is away and this
// worker probes it; see budget.Store.Probe.
func (t *Tracker) permit(ctx context.Context, registry string) (budget.Activity, error) {
	waits, err := t.Budget.Probe(ctx, registry)
	if err == nil || spent(err) != nil || ctx.Err() != nil {
		return waits, err
	}
	return waits, fmt.Errorf("%s: %w: %w", registry, budget.ErrBroker, err)
}

// turn returns the semaphore that admits one caller at a time for a registry.
func (t *Tracker) turn(of *map[string]*semaphore.Weighted, registry string) *semaphore.Weighted {
	t.mu.Lock()
	defer t.mu.Unlock()
	if *of == nil {
		*of = map[string]*semaphore.Weighted{}
	}
	if (*of)[registry] == nil {
		(*of)[registry] = semaphore.NewWeighted(1)
	}
	return (*of)[registry]
}
