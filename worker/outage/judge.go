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

// ownFor is how long a failure is taken for that of a repository and not of its registry,
// once that was found out.
const ownFor = 10 * time.Minute

// streak is what has failed at a place since something has worked there.
type streak struct {
	images       map[subject]bool
	repositories map[reference.Repository]bool
}

// owner is a repository that fails by itself.
type owner struct {
	place
	repository reference.Repository
}

// worked notes that something has been done at a place.
func (t *Tracker) worked(p place, started time.Time) {
	t.mu.Lock()
	delete(t.streaks, p)
	if t.trusted == nil {
		t.trusted = map[string]bool{}
	}
	t.trusted[p.registry] = true
	t.mu.Unlock()
	t.Budget.Back(p.registry, p.activity, started)
}

// failed decides whether a failure is that of the registry, which is then closed. It
// returns the failure, with a *budget.SpentError where the registry is closed by now:
// then it says nothing of the image.
func (t *Tracker) failed(ctx context.Context, p place, of subject, s outcome.Suspicion, started time.Time, cause error) error {
	// One at a time: what the first one finds out is true for those that wait.
	turn := t.turn(&t.judging, p.registry)
	if err := take(ctx, turn); err != nil {
		return cause
	}
	defer func() { <-turn }()
	err := t.judge(ctx, p, of, s, started, cause)
	if closed := spent(err); closed != nil {
		return fmt.Errorf("%w: %w", closed, cause)
	}
	return cause
}

// judge returns a *budget.SpentError where the registry is closed.
func (t *Tracker) judge(ctx context.Context, p place, of subject, suspicion outcome.Suspicion, started time.Time, cause error) error {
	why := suspicion.Why
	if (why == outcome.Unauthorized || why == outcome.Denied) && p.activity == budget.Look && t.IsDestination != nil && t.IsDestination(p.registry) {
		return nil // it may only not be there yet: the push tells
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
	case why == outcome.Full && (probed || s.repositories >= enough): // what is there already takes no space: it tells nothing
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

// size is how much has failed in a streak.
type size struct{ images, repositories int }

// enough reports whether the registry is to be suspected. What it says of its sources'
// repositories to strangers, it says of those that do not exist.
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

// add adds a failure to the streak of a place, and returns how much has failed alike.
func (t *Tracker) add(p place, of subject, why outcome.Why) size {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.streaks == nil {
		t.streaks = map[place]map[outcome.Why]*streak{}
	}
	if t.streaks[p] == nil {
		t.streaks[p] = map[outcome.Why]*streak{}
	}
	s := t.streaks[p][why]
	if s == nil {
		s = &streak{images: map[subject]bool{}, repositories: map[reference.Repository]bool{}}
		t.streaks[p][why] = s
	}
	s.images[of], s.repositories[of.repository] = true, true
	return size{len(s.images), len(s.repositories)}
}

// isOwn reports whether a repository is known to fail by itself.
func (t *Tracker) isOwn(p place, repository reference.Repository) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Now().Before(t.own[owner{p, repository}])
}

// forget forgets what has failed at a registry, which is closed by now.
func (t *Tracker) forget(registry string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.streaks, func(p place, _ map[outcome.Why]*streak) bool { return p.registry == registry })
	maps.DeleteFunc(t.own, func(o owner, _ time.Time) bool { return o.registry == registry })
}

// disown notes that the repositories of a streak, and this one, fail by themselves. Of
// those that are full, the streak goes on: another one may show that all are.
func (t *Tracker) disown(p place, repository reference.Repository, why outcome.Why) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(t.own, func(_ owner, until time.Time) bool { return now.After(until) })
	if t.own == nil {
		t.own = map[owner]time.Time{}
	}
	t.own[owner{p, repository}] = now.Add(ownFor)
	if s := t.streaks[p][why]; s != nil && why != outcome.Full {
		for repository := range s.repositories {
			t.own[owner{p, repository}] = now.Add(ownFor)
		}
		delete(t.streaks[p], why)
	}
}
