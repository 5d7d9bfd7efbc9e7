package budget

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/reference"
)

// rate returns how many requests of the kind may be sent to the registry over the protocol:
// the lowest of the documented rate, the found rate and probeRate. It returns false if there
// is none. While the registry is probed, the fleet sends these requests together.
func (s *Store) rate(registry string, kind Kind, protocol Protocol) (line, Rate, bool) {
	l, rate, limited := s.line(registry, kind, protocol)
	if found, ok := s.foundRate(l, rate); ok {
		f, now := s.found(l), s.Now()
		rate, limited = Rate{Rate: found, grows: f.growing(now), horizon: f.horizon(now)}, true
	}
	if s.probing(registry, kind) && (!limited || probeRate < rate.Rate) {
		l.protocol, rate, limited = HTTP1, Rate{Rate: probeRate, horizon: foundHorizon}, true
	}
	return l, rate, limited
}

// probeRate is the rate for a registry that was reopened and has not answered yet. If it
// refuses again, only one request was wasted.
const probeRate = 1.0

// asLimit expresses a rate as a limit.
func asLimit(rate float64) Limit {
	if rate < 1 {
		return Limit{Requests: 1, Window: interval(rate).Round(time.Second)}
	}
	return Limit{Requests: int(rate), Window: time.Second}
}

func (l line) foundKey() string { return keyFound + "." + l.key() }

func (s *Store) found(l line) found {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.view.found[l.foundKey()]
}

// foundRate returns the found rate of a line if it is a limit: lower than the documented
// rate, if there is one.
func (s *Store) foundRate(l line, documented Rate) (float64, bool) {
	most := unlimited
	if documented.Rate > 0 {
		most = documented.Rate
	}
	rate, ok := s.found(l).at(s.Now())
	return rate, ok && rate < most
}

// refusedRate returns the found rate of a line as foundRate does, if it has ever been too high.
func (s *Store) refusedRate(l line, documented Rate) (float64, bool) {
	rate, ok := s.foundRate(l, documented)
	return rate, ok && s.found(l).Refused
}

// Explore starts the requests of a kind to a registry at a low rate if nothing is known of it.
// It is for sources: the destination is the operator's own. If something is known, it sends
// no request.
func (s *Store) Explore(ctx context.Context, registry string, kind Kind) error {
	if registry != reference.DockerHub && len(s.zones(registry)) == 0 {
		if err := s.explore(ctx, line{registry, All, HTTP1}); err != nil {
			return err
		}
	}
	l, _, documented := s.line(registry, kind, HTTP1)
	if kind != Pull || documented {
		return nil
	}
	return s.explore(ctx, l)
}

func (s *Store) explore(ctx context.Context, l line) error {
	if s.found(l).counts(s.Now()) {
		return nil
	}
	return s.changeRate(ctx, l, func(f found) (found, bool) {
		if f.counts(s.Now()) {
			return f, false
		}
		return found{Rate: firstRate, From: s.Now()}, true
	})
}

// unrefused notes that a registry has refused nothing until its rate had grown so high that it
// is no limit.
func (s *Store) unrefused(ctx context.Context, l line) error {
	return s.changeRate(ctx, l, func(f found) (found, bool) {
		if f.growing(s.Now()) == (growing{}) {
			return f, false
		}
		return found{Rate: unlimited, From: s.Now()}, true
	})
}

// slowDown lowers the rate after a refusal. If the limit is stated, it was kept, and other
// clients have spent it: then the rate stays.
func (s *Store) slowDown(ctx context.Context, c closure) error {
	if c.Kind == Pull && s.hasStatedLimit(c.Registry) {
		return nil
	}
	l, documented, known := s.line(c.Registry, c.Kind, c.Protocol)
	if known {
		return s.changeRate(ctx, l, func(f found) (found, bool) {
			rate, ok := f.at(s.Now())
			if !ok || rate > documented.Rate {
				rate = documented.Rate
			}
			f.ByTime = true
			return f.refused(s.Now(), c, reached{rate: rate}), true
		})
	}
	return s.slowDownFound(ctx, c, l)
}

// slowDownFound lowers the rates of the line of a refused request, and of all requests.
func (s *Store) slowDownFound(ctx context.Context, c closure, l line) error {
	all := line{c.Registry, All, HTTP1}
	together, err := s.last(ctx, all)
	if err != nil {
		return err
	}
	alone, err := s.last(ctx, l)
	if err != nil {
		return err
	}
	if alone.rate == 0 && together.rate < unlimited {
		alone = together
	}
	err = s.changeRate(ctx, l, func(f found) (found, bool) {
		if alone.rate == 0 {
			return f.again(s.Now(), c, firstRate), true
		}
		return f.refused(s.Now(), c, alone), true
	})
	if err != nil || together.rate == 0 {
		return err
	}
	several := s.refusedOthers(l)
	return s.changeRate(ctx, all, func(f found) (found, bool) {
		switch {
		case f.Refused || several:
			return f.refused(s.Now(), c, together), true
		case together.rate < unlimited:
			return f.again(s.Now(), c, max(firstRate, together.rate/2)), true
		}
		return f, false
	})
}

// last returns what the fleet's requests have reached. The rate is unlimited if there is no limit,
// and 0 if none is known.
func (s *Store) last(ctx context.Context, l line) (reached, error) {
	f := s.found(l)
	grows := f.growing(s.Now())
	if grows == (growing{}) {
		rate, _ := f.at(s.Now())
		return reached{rate: rate}, nil
	}
	m, err := s.b.Last(ctx, streamPace, s.lane(l).subject)
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return reached{}, fmt.Errorf("reading the request rate of %s: %w", l.registry, err)
	}
	sent := 0.
	if r, ok := readReservation(m); ok && m.Time.After(f.From) {
		sent = float64(r.Sent)
	}
	return reached{grows.rate(sent, s.latency(l.registry)), sent}, nil
}

// refusedOthers reports whether the registry of a line has refused requests of another kind.
func (s *Store) refusedOthers(l line) bool {
	now := s.Now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, f := range s.view.found {
		if f.Registry == l.registry && f.Kind != l.counted && f.Kind != All && !f.Refusal.IsZero() && f.counts(now) {
			return true
		}
	}
	return false
}

// hasStatedLimit reports whether there is a stated limit of the registry, for any identity.
func (s *Store) hasStatedLimit(registry string) bool {
	now := s.Now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, t := range s.view.stated {
		if t.Registry != registry {
			continue
		}
		if _, origin := s.view.limit(registry, t.Identity, now); origin != None {
			return true
		}
	}
	return false
}

// changeRate changes the rate of a line as update does.
func (s *Store) changeRate(ctx context.Context, l line, change func(found) (found, bool)) error {
	err := update(ctx, s, s.limits, l.foundKey(), func(f found) (found, bool, error) {
		next, changed := change(f)
		next.Registry, next.Kind = l.registry, l.counted
		return next, changed, nil
	})
	if err != nil {
		return fmt.Errorf("storing the rate of %s: %w", l.registry, err)
	}
	return nil
}
