package budget

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// maxClosure is the longest time that a registry is closed, whatever its Retry-After.
	maxClosure = time.Hour
	// minBackoff and maxBackoff bound the time that a registry is closed if it does not
	// say for how long.
	minBackoff = 2 * time.Second
	maxBackoff = 15 * time.Minute
	// A registry that refuses again within reopenedFor after it was reopened counts as closed
	// all the time.
	reopenedFor = 5 * time.Minute
	// closuresKept is how long a closure is at the broker: longer than it lasts.
	closuresKept = maxClosure + 2*reopenedFor
)

// Call is a request to a registry, of this process or of skopeo.
type Call struct {
	Registry string
	Kind     Kind
	Protocol Protocol
	Started  time.Time // by the local clock: time.Now() before it was sent
}

// closure says why and for how long a registry is closed. When that time is over, it still
// holds how often the registry has refused requests in a row.
type closure struct {
	Registry string        `json:"registry"`
	Kind     Kind          `json:"kind"`
	Protocol Protocol      `json:"protocol,omitempty"`
	Reason   string        `json:"reason"`
	Duration time.Duration `json:"duration"`
	Count    int           `json:"count"` // refusals since the last success; 0: it has succeeded
	// First is when the registry was closed, if it was not open for reopenedFor and has not
	// succeeded since. It is zero for an outage, and in old entries.
	First time.Time `json:"first,omitzero"`

	// The rest is of an outage.
	Activity Activity  `json:"activity,omitempty"`
	Since    time.Time `json:"since,omitzero"`   // when it began; zero: the registry limits requests
	Prober   string    `json:"prober,omitempty"` // the process that may use the registry
	Closer   string    `json:"closer,omitempty"` // the process that closed it last
	Opener   string    `json:"opener,omitempty"` // the process that ended the outage

	at time.Time // by the broker's clock
}

// stored implements value.
func (c closure) stored(at time.Time) (closure, bool) {
	c.at = at
	return c, c.Duration >= 0
}

func (c closure) until() time.Time { return c.at.Add(c.Duration) }

// spent returns the error for a request to the closed registry.
func (c closure) spent(now time.Time) *SpentError {
	e := &SpentError{Registry: c.Registry, Slot: latest(c.until(), c.leased()), Reason: c.Reason}
	if c.away(now) {
		e.Since = c.Since
	}
	return e
}

// Closed reports whether the registry, source or destination, is closed, until when by
// the broker's clock, and why. It sends no request.
func (s *Store) Closed(registry string) (until time.Time, reason string, closed bool) {
	c, closed := s.closure(registry)
	if !closed {
		return time.Time{}, "", false
	}
	return c.until(), c.Reason, true
}

// closure returns the registry's closure, if the registry is closed for this process. It is
// never closed for the process that probes it: the broker's clock is ahead of that process's by a
// round trip.
func (s *Store) closure(registry string) (closure, bool) {
	c, ok := s.lastClosure(registry)
	return c, ok && c.Count > 0 && c.Prober != s.id && s.Now().Before(c.until())
}

func (s *Store) lastClosure(registry string) (closure, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.view.closed) == 0 { // as usual: each request asks several times
		return closure{}, false
	}
	c, ok := s.view.closed[token(registry)]
	return c, ok
}

// updateClosure changes the closure of a registry as update does.
func (s *Store) updateClosure(ctx context.Context, registry string, change func(closure) (closure, bool, error)) error {
	err := update(ctx, s, s.closures, token(registry), change)
	if err != nil && !errors.As(err, new(*SpentError)) {
		return fmt.Errorf("updating whether %s is closed: %w", registry, err)
	}
	return err
}

// probing reports whether the registry was reopened for this kind of requests, and
// none has succeeded since.
func (s *Store) probing(registry string, kind Kind) bool {
	c, ok := s.lastClosure(registry)
	return ok && c.Count > 0 && c.Since.IsZero() && s.counted(registry, c.Kind) == s.counted(registry, kind) && s.Now().Sub(c.at) < maxClosure
}

// permit returns a *SpentError if the registry is closed.
func (s *Store) permit(registry string) error {
	if c, closed := s.closure(registry); closed {
		return c.spent(s.Now())
	}
	return nil
}

// Refused closes the registry for the fleet: for retryAfter, but at most for an hour, or, if that
// is 0 or less, by exponential backoff with full jitter. The reason is for people. A call that
// started before the registry was last reopened has no effect, unless it requests a longer closure.
func (s *Store) Refused(ctx context.Context, call Call, retryAfter time.Duration, reason string) error {
	retryAfter = min(max(retryAfter, 0), maxClosure)
	started := s.clock.broker(call.Started)
	var next closure
	closed := false
	err := s.updateClosure(ctx, call.Registry, func(last closure) (closure, bool, error) {
		now := s.Now()
		next, closed = closure{Registry: call.Registry, Kind: call.Kind, Protocol: call.Protocol, Reason: reason, Duration: retryAfter, Count: last.Count + 1, First: now}, true
		if !last.First.IsZero() && last.Count > 0 && now.Sub(last.until()) < reopenedFor {
			next.First = last.First
		}
		if last.away(now) { // a 429 does not end an outage
			next.Activity, next.Since = last.Activity, last.Since
		}
		if last.Count > 0 && started.Before(last.until()) {
			next.Count = last.Count
			closed = now.Add(retryAfter).After(last.until())
		} else if retryAfter == 0 {
			next.Duration = backoff(next.Count, maxBackoff, s.jitter)
		}
		return next, closed, nil
	})
	if err != nil || !closed {
		return err
	}
	s.log.Warn("a registry limits requests and is closed", "registry", call.Registry, "for", next.Duration, "reason", reason)
	return s.slowDown(ctx, next)
}

// backoff returns how long a registry is closed that has refused count requests in a row:
// any time from minBackoff to a ceiling that doubles up to most.
func backoff(count int, most time.Duration, jitter func(time.Duration) time.Duration) time.Duration {
	ceiling := minBackoff
	for range count {
		ceiling = min(2*ceiling, most)
	}
	return minBackoff + jitter(ceiling-minBackoff)
}

// Succeeded resets the backoff if the call is of the kind that was refused, and started
// after the registry was reopened. If there is no backoff, it sends no request.
func (s *Store) Succeeded(call Call) {
	if !s.endsBackoff(call) || s.life.Err() != nil || !s.claimReset(call.Registry) {
		return
	}
	s.running.Go(func() {
		err := s.updateClosure(s.life, call.Registry, func(last closure) (closure, bool, error) {
			// Another worker may have reset it, or closed the registry again.
			return closure{Registry: call.Registry, Kind: last.Kind}, last.Count > 0 && !s.Now().Before(last.until()), nil
		})
		if err != nil {
			s.log.Debug("resetting the backoff", "registry", call.Registry, "error", err)
		}
	})
}

// endsBackoff reports whether there is a backoff that the call's success ends.
func (s *Store) endsBackoff(call Call) bool {
	last, ok := s.lastClosure(call.Registry)
	return ok && last.Count > 0 && last.Since.IsZero() && s.counted(call.Registry, last.Kind) == s.counted(call.Registry, call.Kind) &&
		!s.clock.broker(call.Started).Before(last.until())
}

// claimReset reports whether the caller is the first in this process to reset the
// registry's closure.
func (s *Store) claimReset(registry string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := token(registry)
	c := s.view.closed[key]
	claimed := c.Count > 0
	c.Count = 0
	s.view.closed[key] = c
	return claimed
}

const (
	// maxOutageBackoff bounds the time between two probes of a registry that is away. A
	// probe costs one request or copy, and the fleet works again that soon after the
	// registry does.
	maxOutageBackoff = 30 * time.Second
	// probeLease is how long a worker that probes keeps the others waiting, unless it
	// renews the lease. If it dies, another worker probes after that.
	probeLease = 10 * time.Second
	// If this process fails again within cutOffFor after another process has found the
	// registry working, only this process does not reach the registry.
	cutOffFor = 5 * time.Minute
)

// Activity is an operation that a registry fails at while it is away.
type Activity string

// The activities.
const (
	Answer Activity = "answer" // answer at all: GET /v2/, with the login
	Look   Activity = "look"   // look up tags, manifests, referrers
	Fetch  Activity = "fetch"  // copy from it
	Push   Activity = "push"   // copy to it
)

// Outage describes a registry that fails for every client and every image.
type Outage struct {
	Registry string
	Activity Activity
	Reason   string    // for people
	Started  time.Time // when the request that failed was sent: time.Now() before it
}

// away reports whether the closure is an outage that has not ended.
func (c closure) away(now time.Time) bool {
	return c.Count > 0 && !c.Since.IsZero() && now.Sub(c.at) < maxClosure
}

// leased returns until when the worker that probes keeps the others waiting.
func (c closure) leased() time.Time {
	if c.Prober == "" {
		return time.Time{}
	}
	return c.at.Add(probeLease)
}

// Away closes a registry for the fleet, by exponential backoff with full jitter of half
// a minute at most. It stays closed until Back: after that time, one worker at a time may
// probe it. A request that started before the registry was last closed changes nothing.
// If only this process does not reach the registry, the registry stays open, and the
// error is a *SpentError.
func (s *Store) Away(ctx context.Context, o Outage) error {
	started := s.clock.broker(o.Started)
	var next closure
	closed := false
	err := s.updateClosure(ctx, o.Registry, func(last closure) (closure, bool, error) {
		closed = false
		now := s.Now()
		next = closure{Registry: o.Registry, Activity: o.Activity, Reason: o.Reason, Since: now, Count: 1, Closer: s.id}
		if last.away(now) {
			if last.Prober != s.id && started.Before(last.until()) {
				return last, false, nil
			}
			next.Since, next.Count = last.Since, last.Count+1
		} else if last.Closer == s.id && last.Opener != s.id && last.Opener != "" && now.Sub(last.at) < cutOffFor {
			s.log.Warn("cut off from a registry that other workers reach", "registry", o.Registry, "fails_to", o.Activity, "reason", o.Reason)
			return last, false, &SpentError{Registry: o.Registry, Slot: now, Reason: o.Reason, Since: now, CutOff: true}
		}
		// The registry may have asked for a longer time before.
		next.Duration = max(backoff(next.Count, maxOutageBackoff, s.jitter), last.until().Sub(now))
		closed = true
		return next, true, nil
	})
	if closed && err == nil {
		s.log.Warn("a registry is away and is closed", "registry", o.Registry, "for", next.Duration.Round(time.Second),
			"since", next.Since.Format(time.RFC3339), "fails_to", o.Activity, "reason", o.Reason)
	}
	return err
}

// Probe asks for permission to use a registry. It returns a *SpentError while the
// registry is closed, and while another worker probes it. If the registry is away and
// this worker is the one to probe it, Probe returns the activity that shows that the
// registry is back; otherwise "". A worker that probes for longer than some seconds asks
// again, which renews its lease. While the registry is open, no request is sent.
func (s *Store) Probe(ctx context.Context, registry string) (Activity, error) {
	if c, ok := s.lastClosure(registry); !ok || !c.away(s.Now()) {
		return "", s.permit(registry)
	}
	var activity Activity
	err := s.updateClosure(ctx, registry, func(last closure) (closure, bool, error) {
		now := s.Now()
		activity = ""
		switch {
		case !last.away(now):
			if last.at.IsZero() {
				s.forgetClosure(registry)
			}
			return last, false, s.permit(registry)
		case last.Prober == s.id && now.Before(last.leased().Add(-probeLease/2)):
			activity = last.Activity
			return last, false, nil
		case last.Prober != "" && last.Prober != s.id && now.Before(last.leased()),
			last.Prober == "" && now.Before(last.until()):
			return last, false, last.spent(now)
		}
		activity = last.Activity
		last.Prober, last.Duration = s.id, 0
		return last, true, nil
	})
	if err != nil {
		return "", err
	}
	return activity, nil
}

// IsAway returns the error for requests to a registry that is away, even if this process
// may probe it, and nil if it is not away. It sends no request.
func (s *Store) IsAway(registry string) *SpentError {
	c, ok := s.lastClosure(registry)
	if now := s.Now(); ok && c.away(now) {
		return c.spent(now)
	}
	return nil
}

// Back reopens a registry that was away after a success: of the activity that it failed
// at, in a request that started after it was last closed. If it is not away, no request
// is sent.
func (s *Store) Back(registry string, activity Activity, started time.Time) {
	started = s.clock.broker(started)
	ends := func(c closure) bool {
		return c.away(s.Now()) && (c.Activity == Answer || c.Activity == activity) && (c.Prober == s.id || !started.Before(c.until()))
	}
	c, ok := s.lastClosure(registry)
	if !ok || !ends(c) || s.life.Err() != nil || !s.claimReset(registry) {
		return
	}
	s.log.Info("a registry is back", "registry", registry, "after", s.Now().Sub(c.Since).Round(time.Second))
	s.running.Go(func() {
		err := s.updateClosure(s.life, registry, func(last closure) (closure, bool, error) {
			// It may have been closed again.
			return closure{Registry: registry, Closer: last.Closer, Opener: s.id}, ends(last), nil
		})
		if err != nil {
			s.log.Debug("cannot announce that a registry is back", "registry", registry, "error", err)
		}
	})
}

// forgetClosure drops a closure that the broker no longer holds. A watch does not
// show that an entry has expired.
func (s *Store) forgetClosure(registry string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.view.closed, token(registry))
}
