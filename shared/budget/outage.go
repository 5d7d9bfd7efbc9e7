package budget

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/run"
)

const (
	// maxOutageBackoff bounds the time between two probes of a registry that is away. A
	// probe costs a request or a copy, and the fleet is back at work so soon after the
	// registry is.
	maxOutageBackoff = 30 * time.Second
	// probeLease is how long a worker that probes keeps the others waiting, unless it
	// renews the lease: where it dies, another one probes after that.
	probeLease = 10 * time.Second
	// cutOffFor is how long after another process has found a registry back a new outage
	// that the same process sees as before is taken for its own: what it does not reach,
	// others do.
	cutOffFor = 5 * time.Minute
)

// Activity is what a registry is for, and does not do while it is away.
type Activity string

// The activities.
const (
	Answer Activity = "answer" // answer at all: GET /v2/, the login included
	Look   Activity = "look"   // say what it has: tags, manifests, referrers
	Fetch  Activity = "fetch"  // be copied from
	Push   Activity = "push"   // be copied to
)

// Outage is that a registry fails whoever asks, for whatever image.
type Outage struct {
	Registry string
	Activity Activity
	Reason   string    // for people
	Started  time.Time // when the request that failed was sent: time.Now() before it
}

// away reports whether the closure is an outage that nobody has seen the end of.
func (c closure) away(now time.Time) bool {
	return c.Count > 0 && !c.Since.IsZero() && now.Sub(c.at) < maxClosure
}

// leased is until when the worker that probes keeps the others waiting.
func (c closure) leased() time.Time {
	if c.Prober == "" {
		return time.Time{}
	}
	return c.at.Add(probeLease)
}

// Away closes a registry for the fleet, by exponential backoff with full jitter of half
// a minute at most. It stays closed until Back: after that time, one worker at a time may
// probe it. What started before the registry was last closed says nothing new. The error
// is a *SpentError, and the registry stays open, if only this process is cut off from it.
func (s *Store) Away(ctx context.Context, o Outage) error {
	started := s.clock.broker(o.Started)
	for {
		last, revision, err := s.readClosure(ctx, o.Registry)
		if err != nil {
			return err
		}
		now := s.Now()
		next := closure{Registry: o.Registry, Activity: o.Activity, Reason: o.Reason, Since: now, Count: 1}
		if last.away(now) {
			if last.Prober != s.id && started.Before(last.until()) {
				return nil
			}
			next.Since, next.Count = last.Since, last.Count+1
		} else if last.Closer == s.id && last.Opener != s.id && last.Opener != "" && now.Sub(last.at) < cutOffFor {
			s.log.Warn("cut off from a registry that other workers reach", "registry", o.Registry, "fails_to", o.Activity, "reason", o.Reason)
			return &SpentError{Registry: o.Registry, Slot: now, Reason: o.Reason, Since: now, CutOff: true}
		}
		next.Closer = s.id
		// It may have asked for a longer time before.
		next.Duration = max(backoff(next.Count, maxOutageBackoff, s.jitter), last.until().Sub(now))
		err = s.writeClosure(ctx, next, revision)
		if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			continue // another worker was faster: see what it has written
		}
		if err != nil {
			return fmt.Errorf("closing %s: %w", o.Registry, err)
		}
		s.log.Warn("a registry is away and is closed", "registry", o.Registry, "for", next.Duration.Round(time.Second),
			"since", next.Since.Format(time.RFC3339), "fails_to", o.Activity, "reason", o.Reason)
		return nil
	}
}

// Probe asks for the permission to use a registry. It returns a *SpentError while the
// registry is closed, and while another worker probes it. Where the registry is away and
// this worker is the one to probe it, it returns what the registry has to do to be back;
// else nothing. A worker that probes for longer than some seconds asks again, which
// renews its lease. It costs nothing while the registry is open.
func (s *Store) Probe(ctx context.Context, registry string) (Activity, error) {
	if c, ok := s.lastClosure(registry); !ok || !c.away(s.Now()) {
		return "", s.permit(registry)
	}
	for {
		last, revision, err := s.readClosure(ctx, registry)
		if err != nil {
			return "", err
		}
		now := s.Now()
		switch {
		case !last.away(now):
			s.forgetClosure(registry, revision)
			return "", s.permit(registry)
		case last.Prober == s.id && now.Before(last.leased().Add(-probeLease/2)):
			return last.Activity, nil
		case last.Prober != "" && last.Prober != s.id && now.Before(last.leased()):
			return "", last.spent(now)
		case last.Prober == "" && now.Before(last.until()):
			return "", last.spent(now)
		}
		last.Prober, last.Duration = s.id, 0
		if err = s.writeClosure(ctx, last, revision); err == nil {
			return last.Activity, nil
		}
		if !errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			return "", fmt.Errorf("probing %s: %w", registry, err)
		}
	}
}

// IsAway returns what those are answered who want to use a registry that is away, whoever
// may probe it, and nil where it is not. It costs nothing.
func (s *Store) IsAway(registry string) *SpentError {
	c, ok := s.lastClosure(registry)
	if now := s.Now(); ok && c.away(now) {
		return c.spent(now)
	}
	return nil
}

// Back reopens a registry that was away: it has done what it did not do, in answer to a
// request that started after it was last closed. It costs nothing where it is not away.
func (s *Store) Back(registry string, activity Activity, started time.Time) {
	c, ok := s.lastClosure(registry)
	if !ok || !c.away(s.Now()) || c.Activity != Answer && c.Activity != activity ||
		c.Prober != s.id && s.clock.broker(started).Before(c.until()) ||
		s.life.Err() != nil || !s.claimReset(Call{Registry: registry}) {
		return
	}
	s.log.Info("a registry is back", "registry", registry, "after", s.Now().Sub(c.Since).Round(time.Second))
	s.running.Go(func() {
		if err := s.reopen(s.life, registry); err != nil {
			s.log.Debug("cannot announce that a registry is back", "registry", registry, "error", err)
		}
	})
}

// reopen tells all that the registry is back, unless another worker has done so.
func (s *Store) reopen(ctx context.Context, registry string) error {
	for {
		last, revision, err := s.readClosure(ctx, registry)
		if err != nil || !last.away(s.Now()) {
			return err
		}
		err = s.writeClosure(ctx, closure{Registry: registry, Closer: last.Closer, Opener: s.id}, revision)
		if !errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			return err
		}
	}
}

// forgetClosure drops what this process believes of a registry of which the broker keeps
// nothing any more: an entry's end is not told to those who watch it.
func (s *Store) forgetClosure(registry string, revision uint64) {
	if revision > 0 {
		return // readClosure has taken it in
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.view.closed, token(registry))
}

// describe adds to how a registry stands that it is closed.
func (c closure) describe(known *run.Registry, now time.Time) {
	until := c.until()
	if c.away(now) {
		since := c.Since
		known.ClosedSince, until = &since, later(until, c.leased())
	} else if c.Count == 0 || !now.Before(until) {
		return
	}
	known.ClosedUntil, known.Reason = &until, c.Reason
	if until.After(now) && (known.NextSlot == nil || known.NextSlot.Before(until)) {
		known.NextSlot = &until
	}
}
