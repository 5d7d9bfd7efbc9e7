package outage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
)

// ownFor is how long the errors of a repository count as its own, and not its registry's, after a
// test has shown that.
const ownFor = 10 * time.Minute

// streak records the failures at a place, for the same reason, since the last success there.
type streak struct {
	images       map[subject]bool
	repositories map[reference.Repository]bool
}

// failing is a place and the reason of a streak there.
type failing struct {
	place
	why outcome.Why
}

// owner is a repository whose errors at a place are its own.
type owner struct {
	place      place
	repository reference.Repository
}

// worked notes a success at a place.
func (t *Tracker) worked(p place, started time.Time) {
	t.mu.Lock()
	maps.DeleteFunc(t.streaks, func(f failing, _ *streak) bool { return f.place == p })
	if t.trusted == nil {
		t.trusted = map[string]bool{}
	}
	t.trusted[p.registry] = true
	t.mu.Unlock()
	t.Budget.Back(p.registry, p.activity, started)
}

// failed decides whether an error is the registry's fault, and if so, closes the registry. It
// returns the error. If the registry is closed now, it wraps the error in a *budget.SpentError,
// because the image is not to blame.
func (t *Tracker) failed(ctx context.Context, p place, of subject, s outcome.Suspicion, started time.Time, cause error) error {
	// One error at a time is judged; the others use its result.
	turn := t.turn(&t.judging, p.registry)
	if turn.Acquire(ctx, 1) != nil {
		return cause
	}
	defer turn.Release(1)
	err := t.judge(ctx, p, of, s, started, cause)
	if closed := spent(err); closed != nil {
		return fmt.Errorf("%w: %w", closed, cause)
	}
	return cause
}

// judge returns a *budget.SpentError if the registry is closed.
func (t *Tracker) judge(ctx context.Context, p place, of subject, suspicion outcome.Suspicion, started time.Time, cause error) error {
	why := suspicion.Why
	if (why == outcome.Unauthorized || why == outcome.Denied) && p.activity == budget.Look && t.IsDestination != nil && t.IsDestination(p.registry) {
		return nil // the repository may not exist yet; the push shows whether it may be created
	}
	waits, err := t.permit(ctx, p.registry)
	if err != nil {
		return err
	}
	if err := t.reach(ctx, of.repository, started, errors.Is(cause, registry.ErrPage)); err != nil {
		return err
	}
	probed := waits == p.activity
	s := t.add(p, of, why)
	switch {
	case why == outcome.Full && (probed || s.repositories >= enough): // a specimen takes no space, so it proves nothing
	case t.isOwn(p, of.repository), !probed && !s.enough(p, suspicion):
		return nil
	case t.works(ctx, p, of.repository, why):
		t.disown(p, of.repository, why)
		if probed {
			t.Budget.Back(p.registry, p.activity, started)
		}
		return nil
	}
	return t.away(ctx, p, started, cause)
}

// size is the size of a streak.
type size struct{ images, repositories int }

// enough reports whether a streak of this size makes the registry suspect. Sources also answer 401
// for repositories that do not exist, so at a source, only several repositories do.
func (s size) enough(p place, suspicion outcome.Suspicion) bool {
	push := p.activity == budget.Push
	switch suspicion.Why {
	case outcome.Full, outcome.ReadOnly:
		return push || s.images >= enough
	case outcome.Unauthorized:
		return s.repositories >= enough || push && s.images >= enough
	case outcome.Denied:
		return s.repositories >= enough
	}
	return s.images >= enough || suspicion.Blind
}

// add adds an error to the streak of a place, and returns the streak's size.
func (t *Tracker) add(p place, of subject, why outcome.Why) size {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.streaks == nil {
		t.streaks = map[failing]*streak{}
	}
	s := t.streaks[failing{p, why}]
	if s == nil {
		s = &streak{images: map[subject]bool{}, repositories: map[reference.Repository]bool{}}
		t.streaks[failing{p, why}] = s
	}
	s.images[of], s.repositories[of.repository] = true, true
	return size{len(s.images), len(s.repositories)}
}

// isOwn reports whether the errors of a repository are known to be its own.
func (t *Tracker) isOwn(p place, repository reference.Repository) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Now().Before(t.own[owner{p, repository}])
}

// forget forgets the streaks of a registry, which is closed now.
func (t *Tracker) forget(registry string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.streaks, func(f failing, _ *streak) bool { return f.registry == registry })
	maps.DeleteFunc(t.own, func(o owner, _ time.Time) bool { return o.place.registry == registry })
}

// disown notes that the errors of this repository, and of those in the streak, are their own. It
// does not end a streak of full repositories, because a further one may show that the registry is
// full.
func (t *Tracker) disown(p place, repository reference.Repository, why outcome.Why) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(t.own, func(_ owner, until time.Time) bool { return now.After(until) })
	if t.own == nil {
		t.own = map[owner]time.Time{}
	}
	t.own[owner{p, repository}] = now.Add(ownFor)
	if s := t.streaks[failing{p, why}]; s != nil && why != outcome.Full {
		for repository := range s.repositories {
			t.own[owner{p, repository}] = now.Add(ownFor)
		}
		delete(t.streaks, failing{p, why})
	}
}
