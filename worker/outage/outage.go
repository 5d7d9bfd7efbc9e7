// Package outage finds out when failures are those of a registry and not of an image:
// it is away, full, read-only, or does not let us in. Then it closes the registry for
// the fleet, and lets one probe at a time through until it is back.
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
)

// enough is how many different images, or repositories where we may not do something,
// have to fail alike in a row, with nothing that works between them, for the registry to
// be suspected. It is what a worker loses time with in an outage, and what a registry must
// not have broken at the same time to stay open where nothing else is known of it. Of a
// registry that says itself that it is full or read-only, or fails before it knows what is
// pushed, one image is enough.
const enough = 3

// renewal is how often a worker that probes renews its lease: some times in one.
const renewal = 3 * time.Second

// Tracker watches what a worker asks of registries. It is safe for concurrent use.
type Tracker struct {
	Budget *budget.Store
	// Registry asks whether a registry is alive, and for what was fine before. It must
	// not be guarded by the tracker itself.
	Registry *registry.Client
	// IsDestination reports whether a registry is written to. What we may not look at
	// there may only not be there yet.
	IsDestination func(registry string) bool
	Log           *slog.Logger

	mu       sync.Mutex
	streaks  map[place]map[outcome.Why]*streak
	own      map[owner]time.Time
	known    map[string][]specimen // by registry
	alive    map[string]time.Time  // when a registry was last asked that was, by registry
	trusted  map[string]bool       // registries that have done anything
	judging  map[string]chan struct{}
	probings map[string]chan struct{}
}

// place is what is done at a registry.
type place struct {
	registry string // docker.io for all hosts of Docker Hub
	activity budget.Activity
}

// subject is what it is done with.
type subject struct {
	repository reference.Repository
	image      reference.TagOrDigest // nil: all of it
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
	if request.Blob { // an image has several
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
		// What holds its layers need not be taken.
	case err == nil, p.activity == budget.Look && answered(err):
		t.worked(p, started)
	}
	return err
}

// imageKey finds in a context which image is copied.
type imageKey struct{}

// WithImage returns a context in which requests for blobs are for the image with this
// digest.
func WithImage(ctx context.Context, digest reference.Digest) context.Context {
	return context.WithValue(ctx, imageKey{}, digest)
}

// imageOf is nil where it is not known which image it is.
func imageOf(ctx context.Context) reference.TagOrDigest {
	if digest, ok := ctx.Value(imageKey{}).(reference.Digest); ok {
		return digest
	}
	return nil
}

// answered reports whether the registry itself has answered, and not to slow down.
func answered(err error) bool {
	var asked *registry.Error
	return errors.As(err, &asked) && asked.Status != 0 && outcome.Classify(err) != outcome.Limited
}

// Copy runs a skopeo process that copies the manifest with this digest.
func (t *Tracker) Copy(ctx context.Context, source, destination reference.Repository, digest reference.Digest, run func(context.Context) error) error {
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
	// What has waited for one side may look as if it had waited for the other.
	for _, repository := range []reference.Repository{source, destination} {
		if closed := spent(t.reach(ctx, repository, started, false)); closed != nil {
			return fmt.Errorf("%w: %w", closed, err)
		}
	}
	return err
}

// Open asks for the permission to work with the registries of repositories. It returns a
// *budget.SpentError where one is closed, and true where one is away and this worker is
// to probe it: then as little as possible should be begun before that has succeeded.
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

// lately is how long a registry counts as alive that has said so.
const lately = 5 * time.Second

// Blames returns a *budget.SpentError where what has failed may be the fault of a
// registry that is away by now, and otherwise nil. Of a request that the tracker has not
// watched, it finds out.
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

// suspect returns what a failure may say of its registry. Settings are wrong from the
// beginning: where a registry has spoken TLS as it should before, it is in trouble.
func (t *Tracker) suspect(err error) (outcome.Suspicion, bool) {
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
	var found *budget.SpentError
	errors.As(err, &found)
	return found
}

// permit asks the fleet for the permission to use a registry; see budget.Store.Probe.
func (t *Tracker) permit(ctx context.Context, registry string) (budget.Activity, error) {
	waits, err := t.Budget.Probe(ctx, registry)
	if err == nil || spent(err) != nil || ctx.Err() != nil {
		return waits, err
	}
	return waits, fmt.Errorf("%w %s: %w", throttle.ErrBroker, registry, err)
}

// turn returns one of the channels that let one through at a time.
func (t *Tracker) turn(of *map[string]chan struct{}, registry string) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if *of == nil {
		*of = map[string]chan struct{}{}
	}
	if (*of)[registry] == nil {
		(*of)[registry] = make(chan struct{}, 1)
	}
	return (*of)[registry]
}

// take waits for a turn.
func take(ctx context.Context, turn chan struct{}) error {
	select {
	case turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
