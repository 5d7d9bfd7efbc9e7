// Package outage finds out when errors are the fault of a registry and not of an image: the
// registry is away, full, read-only, or refuses the credentials. It then closes the registry
// for the fleet, and lets one probe at a time pass until the registry works again.
package outage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/throttle"
	"golang.org/x/sync/semaphore"
)

// enough is how many images, or repositories if permissions are refused, must fail alike in a
// row before their registry is suspected. A larger number would cost time in an outage; with a
// smaller one, a few broken images would close a registry that was not used otherwise. One
// image is enough if the registry answers that it is full or read-only, or fails before it knows
// which image is pushed.
const enough = 3

// renewal is how often a prober renews its lease, which lasts several times as long.
const renewal = 3 * time.Second

// Tracker watches a worker's requests to registries. It is safe for concurrent use.
type Tracker struct {
	Budget *budget.Store
	// Registry sends the tracker's own requests. Guard must not be its guard.
	Registry *registry.Client
	// IsDestination reports whether a registry is written to. Such a registry may refuse
	// look-ups of repositories that do not exist yet. It is optional.
	IsDestination func(registry string) bool
	Log           *slog.Logger

	mu       sync.Mutex
	streaks  map[place]map[outcome.Why]*streak
	own      map[owner]time.Time
	known    map[string][]specimen // by registry
	alive    map[string]time.Time  // the last request that showed that a registry is alive
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

// Guard is called with each request of a client before it is sent; see
// registry.Options.
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

// answered reports whether an error is an answer of the registry itself, other than a 429.
func answered(err error) bool {
	var asked *registry.Error
	return errors.As(err, &asked) && asked.Status != 0 && outcome.Classify(err) != outcome.Limited
}

// GuardCopy runs a skopeo process that copies the manifest with this digest, when both registries
// are open. Its error wraps a *budget.SpentError if one of them is closed.
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
	// A copy that waited for one side may look as if it had waited for the other.
	for _, repository := range []reference.Repository{source, destination} {
		if closed := spent(t.reach(ctx, repository, started, false)); closed != nil {
			return fmt.Errorf("%w: %w", closed, err)
		}
	}
	return err
}

// Open reports whether work with the registries of these repositories may begin. It returns a
// *budget.SpentError if one is closed. It returns true if one is away and this worker probes
// it: then only little work should begin before that has succeeded.
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

// Blames returns a *budget.SpentError if an error may be the fault of a registry that is away
// now, and otherwise nil. If the error is that of a request, Blames asks the registry whether
// it is alive.
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

// suspect returns the suspicion that an error raises about its registry. An untrusted certificate is usually
// a matter of settings; but if the registry has worked before, it is in trouble.
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

// permit returns the activity that a registry waits for, if it is away and this worker probes
// it; see budget.Store.Probe.
func (t *Tracker) permit(ctx context.Context, registry string) (budget.Activity, error) {
	waits, err := t.Budget.Probe(ctx, registry)
	if err == nil || spent(err) != nil || ctx.Err() != nil {
		return waits, err
	}
	return waits, fmt.Errorf("%w %s: %w", throttle.ErrBroker, registry, err)
}

// turn returns the semaphore that lets one caller at a time pass for a registry.
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
