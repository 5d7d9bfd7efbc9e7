package check

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	// attempts is how often a request is made whose failure may pass. With pauses of 1, 2
	// and 4 seconds, it survives a short disturbance, and does not keep the user waiting.
	attempts = 4
	// limitedAttempts is how often a registry is asked that limits us, over two minutes.
	limitedAttempts = 8
	// maxPause is the longest time that a registry which limits us is waited for.
	maxPause = time.Minute
)

// destinationError is a failure of a whole destination, rather than of one of its tags.
type destinationError struct {
	error
	reported bool
}

func (e *destinationError) Unwrap() error { return e.error }

// Ask implements compare.Asker. It repeats a request whose failure may pass. A destination
// whose first request fails, for a reason that is not the tag's, is not asked again.
func (f *forecast) Ask(ctx context.Context, entry message.Repository, repository reference.Repository, request func() error) error {
	if repository != entry.Destination {
		return f.insist(ctx, repository, request)
	}
	f.mu.Lock()
	before, asked := f.destinations[repository]
	f.mu.Unlock()
	if before != nil {
		return before
	}
	err := f.insist(ctx, repository, func() error {
		f.slots <- struct{}{}
		defer func() { <-f.slots }()
		return request()
	})
	if asked || errors.Is(err, compare.ErrUnlisted) {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if isWhole(err) {
		f.destinations[repository] = &destinationError{error: err}
		return f.destinations[repository]
	}
	f.destinations[repository] = nil
	return err
}

// Pulled implements compare.Asker. WithoutPulls lets none through.
func (f *forecast) Pulled() {}

// wholly are failures of a destination rather than of one tag. A page in place of a tag is
// a failure only if the destination does not answer otherwise.
var wholly = []error{
	registry.ErrUnauthorized, registry.ErrDenied, registry.ErrLimited, registry.ErrBlocked, registry.ErrPlainHTTP,
	registry.ErrCertificate, registry.ErrCredentials, registry.ErrPage,
}

// isWhole reports whether a failure is about the destination rather than one tag.
func isWhole(err error) bool {
	if err == nil {
		return false
	}
	if asked, ok := errors.AsType[*registry.Error](err); !ok || asked.Status == 0 && errors.Is(err, registry.ErrUnavailable) {
		return true
	}
	return slices.ContainsFunc(wholly, func(cause error) bool { return errors.Is(err, cause) })
}

// insist makes a request, and again if its failure may pass. A host that does not answer at
// all is asked only once for everything else.
func (f *forecast) insist(ctx context.Context, repository reference.Repository, request func() error) error {
	host := repository.Registry()
	for attempt := 1; ; {
		err := request()
		if err == nil || !mayPass(err) {
			return err
		}
		after := outcome.RetryAfter(err)
		if after > maxPause {
			return err
		}
		pause := f.checker.Backoff(attempt)
		if !isTurn(err) {
			if attempt >= most(err) || f.isSilent(host) {
				if asked, ok := errors.AsType[*registry.Error](err); !ok || asked.Status == 0 {
					f.noteSilent(host)
				}
				return err
			}
			attempt++
		}
		timer := time.NewTimer(max(min(pause, maxPause), after))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// isTurn reports whether a request only waits for its turn in a budget, however often: a
// list of some hundred repositories must get through. It is unknown when
// a registry that is away comes back, so waiting for that is not a turn.
func isTurn(err error) bool {
	spent, ok := errors.AsType[*budget.SpentError](err)
	return ok && spent.Since.IsZero()
}

// most is how often a request is made that fails like this.
func most(err error) int {
	if errors.Is(err, registry.ErrLimited) {
		return limitedAttempts
	}
	return attempts
}

// mayPass reports whether a failure is worth another try.
func mayPass(err error) bool {
	class := outcome.Classify(err)
	return (class == outcome.Transient || class == outcome.Limited) && !errors.Is(err, ErrPull) && !errors.Is(err, compare.ErrUnlisted)
}

func (f *forecast) isSilent(host string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.silent[host]
}

func (f *forecast) noteSilent(host string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent[host] = true
}
