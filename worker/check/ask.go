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
	// attempts is how often a request is sent if its failure may pass. Pauses of 1, 2 and 4
	// seconds outlast a short disturbance without keeping the user waiting.
	attempts = 4
	// limitedAttempts is how often a request is sent if the registry answers 429. It takes two
	// minutes.
	limitedAttempts = 8
	// maxPause is the longest pause between two attempts.
	maxPause = time.Minute
)

// destinationError is a failure of a destination repository rather than one of its tags.
type destinationError struct {
	error
	reported bool
}

func (e *destinationError) Unwrap() error { return e.error }

// Ask implements compare.Asker. It repeats a request whose failure may pass. If the first
// request to a destination fails for a reason that concerns all tags, it sends no further ones.
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

// Pulled implements compare.Asker. WithoutPulls permits no pull.
func (f *forecast) Pulled() {}

// wholly are failures of a destination rather than one tag.
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

// insist sends a request, and repeats it if its failure may pass. Once a host has not answered
// at all, other requests to it are not repeated.
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
			if f.isLast(err, attempt, host) {
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

// isTurn reports whether a request only waits for its turn in a budget. It waits for any number
// of turns, so that a long list is checked to the end. A registry that is away is not waited
// for, because its return is unknown.
func isTurn(err error) bool {
	spent, ok := errors.AsType[*budget.SpentError](err)
	return ok && spent.Since.IsZero()
}

// mayPass reports whether a failure is worth another attempt.
func mayPass(err error) bool {
	class := outcome.Classify(err)
	return (class == outcome.Transient || class == outcome.Limited) && !errors.Is(err, errPull) && !errors.Is(err, compare.ErrUnlisted)
}

// isLast reports whether a failed attempt is the last one. It notes hosts that do not answer.
func (f *forecast) isLast(err error, attempt int, host string) bool {
	most := attempts
	if errors.Is(err, registry.ErrLimited) {
		most = limitedAttempts
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if attempt < most && !f.silent[host] {
		return false
	}
	asked, ok := errors.AsType[*registry.Error](err)
	f.silent[host] = f.silent[host] || !ok || asked.Status == 0
	return true
}
