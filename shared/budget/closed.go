package budget

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// maxClosure is the longest that a registry can close itself for, however far
	// away its Retry-After is.
	maxClosure = time.Hour
	// minBackoff and maxBackoff bound the time a registry is closed that does not
	// say for how long.
	minBackoff = 2 * time.Second
	maxBackoff = 15 * time.Minute
)

// Call is a request, of ours or skopeo's, and what became known of its registry by
// its answer.
type Call struct {
	Registry string
	Kind     Kind
	Started  time.Time // by the local clock: time.Now() before it was sent
}

// closure is why and for how long a registry is closed; after that, how often it
// has refused us in a row.
type closure struct {
	Registry string        `json:"registry"`
	Kind     Kind          `json:"kind"`
	Reason   string        `json:"reason"`
	Duration time.Duration `json:"duration"`
	Count    int           `json:"count"` // refusals since the last success; 0: it has succeeded

	// Of an outage:
	Activity Activity  `json:"activity,omitempty"`
	Since    time.Time `json:"since,omitzero"`   // its begin; zero: the registry limits us
	Prober   string    `json:"prober,omitempty"` // the process that may use the registry
	Closer   string    `json:"closer,omitempty"` // the process that closed it last
	Opener   string    `json:"opener,omitempty"` // the process that found it back, once the outage is over

	at time.Time // by the broker's clock
}

func (c closure) until() time.Time { return c.at.Add(c.Duration) }

// spent is what those are answered who want to use the registry.
func (c closure) spent(now time.Time) *SpentError {
	e := &SpentError{Registry: c.Registry, Slot: later(c.until(), c.leased()), Reason: c.Reason}
	if c.away(now) {
		e.Since = c.Since
	}
	return e
}

// Closed tells whether the registry is closed, source or destination, until when by
// the broker's clock, and why. It costs nothing.
func (s *Store) Closed(registry string) (until time.Time, reason string, closed bool) {
	c, closed := s.closure(registry)
	if !closed {
		return time.Time{}, "", false
	}
	return c.until(), c.Reason, true
}

// closure returns the registry's closure, where it is closed. It is not for this process
// while that probes it: the broker's clock is ahead of ours, by what an answer takes.
func (s *Store) closure(registry string) (closure, bool) {
	c, ok := s.lastClosure(registry)
	return c, ok && c.Count > 0 && c.Prober != s.id && s.Now().Before(c.until())
}

func (s *Store) lastClosure(registry string) (closure, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c, ok := s.view.closed[token(registry)]
	return c, ok
}

// probing reports whether the registry was reopened for this kind of requests, and
// none has succeeded since.
func (s *Store) probing(registry string, kind Kind) bool {
	c, ok := s.lastClosure(registry)
	return ok && c.Count > 0 && c.Since.IsZero() && countedAs(registry, c.Kind) == countedAs(registry, kind) && s.Now().Sub(c.at) < maxClosure
}

// permit returns a *SpentError where the registry is closed.
func (s *Store) permit(registry string) error {
	if c, closed := s.closure(registry); closed {
		return c.spent(s.Now())
	}
	return nil
}

// Refused closes the registry for the fleet: for retryAfter, an hour at most, or
// where that is 0 or less, by exponential backoff with full jitter. The reason is
// for people. What started before the registry was last reopened tells nothing new,
// unless it asks for a longer time.
func (s *Store) Refused(ctx context.Context, call Call, retryAfter time.Duration, reason string) error {
	retryAfter = min(max(retryAfter, 0), maxClosure)
	started := s.clock.broker(call.Started)
	for {
		last, revision, err := s.readClosure(ctx, call.Registry)
		if err != nil {
			return err
		}
		now := s.Now()
		next := closure{Registry: call.Registry, Kind: call.Kind, Reason: reason, Duration: retryAfter, Count: last.Count + 1}
		if last.away(now) { // being told to wait is no sign that it is back
			next.Activity, next.Since = last.Activity, last.Since
		}
		if last.Count > 0 && started.Before(last.until()) {
			if !now.Add(retryAfter).After(last.until()) {
				return nil
			}
			next.Count = last.Count
		} else if retryAfter == 0 {
			next.Duration = backoff(next.Count, maxBackoff, s.jitter)
		}
		err = s.writeClosure(ctx, next, revision)
		if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			continue // another worker was faster: see what it has written
		}
		if err != nil {
			return fmt.Errorf("closing %s: %w", call.Registry, err)
		}
		s.log.Warn("a registry limits requests and is closed", "registry", call.Registry, "for", next.Duration, "reason", reason)
		return s.slowDown(ctx, next)
	}
}

// backoff is how long a registry is closed that has refused us count times in a row:
// any time from minBackoff to a ceiling that doubles up to the most.
func backoff(count int, most time.Duration, jitter func(time.Duration) time.Duration) time.Duration {
	ceiling := minBackoff
	for range count {
		ceiling = min(2*ceiling, most)
	}
	return minBackoff + jitter(ceiling-minBackoff)
}

// Succeeded resets the backoff, where there is one: a call of the kind that was
// refused has started since the registry was reopened, and was answered. It costs
// nothing where there is none to reset.
func (s *Store) Succeeded(call Call) {
	if !s.endsBackoff(call) || s.life.Err() != nil || !s.claimReset(call) {
		return
	}
	s.running.Go(func() {
		if err := s.reset(s.life, call.Registry); err != nil {
			s.log.Debug("resetting the backoff", "registry", call.Registry, "error", err)
		}
	})
}

// endsBackoff reports whether there is a backoff that the call's success ends.
func (s *Store) endsBackoff(call Call) bool {
	last, ok := s.lastClosure(call.Registry)
	return ok && last.Count > 0 && last.Since.IsZero() && countedAs(call.Registry, last.Kind) == countedAs(call.Registry, call.Kind) &&
		!s.clock.broker(call.Started).Before(last.until())
}

// claimReset reports whether the caller is the one in this process to reset it.
func (s *Store) claimReset(call Call) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := token(call.Registry)
	c := s.view.closed[key]
	claimed := c.Count > 0
	c.Count = 0
	s.view.closed[key] = c
	return claimed
}

func (s *Store) reset(ctx context.Context, registry string) error {
	last, revision, err := s.readClosure(ctx, registry)
	// Another worker may have reset it, or closed the registry again.
	if err != nil || last.Count == 0 || s.Now().Before(last.until()) {
		return err
	}
	err = s.writeClosure(ctx, closure{Registry: registry, Kind: last.Kind}, revision)
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return nil
	}
	return err
}

// readClosure asks the broker, because a decision depends on it.
func (s *Store) readClosure(ctx context.Context, registry string) (closure, uint64, error) {
	entry, err := s.closures.Get(ctx, token(registry))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return closure{}, 0, nil
	}
	if err != nil {
		return closure{}, 0, fmt.Errorf("asking whether %s is closed: %w", registry, err)
	}
	var c closure
	if json.Unmarshal(entry.Value(), &c) != nil {
		return closure{}, entry.Revision(), nil // not written by a worker
	}
	c.at = entry.Created()
	s.apply(entry)
	return c, entry.Revision(), nil
}

// writeClosure stores it for everybody, this process first, unless somebody else
// was faster.
func (s *Store) writeClosure(ctx context.Context, c closure, revision uint64) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	key := token(c.Registry)
	if revision, err = s.closures.Update(ctx, key, data, revision); err != nil {
		return err
	}
	c.at = s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.view.newer(bucketClosed, key, revision) {
		s.view.closed[key] = c
	}
	return nil
}
