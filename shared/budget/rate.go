package budget

import (
	"context"
	"fmt"
	"math"
	"time"
)

// rate returns how many requests of the kind may be sent to the registry over the protocol:
// the lowest of the documented rate, the found rate and probeRate. It returns false if there
// is none. While the registry is probed, the fleet sends these requests together.
func (s *Store) rate(registry string, kind Kind, protocol Protocol) (line, Rate, bool) {
	l, rate, limited := s.line(registry, kind, protocol)
	if found, ok := s.foundRate(l, rate); ok {
		rate, limited = Rate{Rate: found}, true
	}
	if s.probing(registry, kind) && (!limited || probeRate < rate.Rate) {
		l.protocol, rate, limited = HTTP1, Rate{Rate: probeRate}, true
	}
	return l, rate, limited
}

// probeRate is the rate for a registry that was reopened and has not answered yet. If it
// refuses again, only one request was in vain.
const probeRate = 1.0

// asLimit expresses a rate as a limit.
func asLimit(rate float64) Limit {
	if rate < 1 {
		return Limit{Requests: 1, Window: interval(rate).Round(time.Second)}
	}
	return Limit{Requests: int(rate), Window: time.Second}
}

// An unannounced limit is discovered as TCP discovers the capacity of a network: pulls
// start at a moderate rate that keeps doubling; a refusal halves it, and from then on it
// grows slowly. The rate is a function of time alone, so that workers share only
// refusals. Requests are spread evenly, so that any kind of limit is kept if the average
// is right.
const (
	// firstRate is the rate of the first pulls, in requests a second: fast enough not to
	// matter for a registry without a limit, and slow enough that few requests are under
	// way when a registry refuses.
	firstRate = 16.0
	// doubling is how long an unrefused rate takes to double.
	doubling = 4 * time.Second
	// unlimited is the rate from which on there is no limit: no fleet starts as many
	// processes.
	unlimited = 200.0
	// creeping is how long the rate takes to double after a refusal, and creepingRequests
	// how many requests that takes at least. One or two of them are refused when the rate
	// is too high again.
	creeping         = 2 * time.Minute
	creepingRequests = 100
	// longestWindow is the longest window of a limit that is discovered by its length: most
	// are of a second or a minute. What refuses for longer may be no limit.
	longestWindow = time.Minute
	// slowest is the lowest rate: one request in the longest backoff.
	slowest = 1 / float64(maxBackoff/time.Second)
	// keepFound is how long a rate counts that has been too high. The limit may have changed
	// since.
	keepFound = 24 * time.Hour
	// keepUnrefused is how long a registry is remembered that has refused nothing.
	keepUnrefused = 30 * 24 * time.Hour
)

// found is the rate of requests to a registry whose limit is not known.
type found struct {
	Registry string    `json:"registry"`
	Kind     Kind      `json:"kind"`
	Rate     float64   `json:"rate"`    // requests a second, at From
	From     time.Time `json:"from"`    // by the broker's clock
	Refused  bool      `json:"refused"` // whether it has ever been too high

	// Of the requests that led to the last refusals in a row:
	Sent  float64   `json:"sent,omitempty"` // how many there were at most
	Since time.Time `json:"since,omitzero"` // when the first was sent
}

// stored implements value.
func (f found) stored(time.Time) (found, bool) { return f, f.Rate >= 0 }

// current returns the rate now, and false if it is not known or so high that it is no limit.
func (f found) current(now time.Time) (float64, bool) {
	rate, ok := f.at(now)
	return rate, ok && rate < unlimited
}

// at returns the rate at a time, and false if it is not known.
func (f found) at(now time.Time) (float64, bool) {
	passed := max(now.Sub(f.From), 0)
	if !f.counts(now) {
		return 0, false
	}
	if f.Refused {
		grow := max(creeping.Seconds(), creepingRequests/f.Rate)
		return f.Rate * (1 + passed.Seconds()/grow), true
	}
	return f.Rate * math.Exp2(passed.Seconds()/doubling.Seconds()), true
}

// counts reports whether the rate is known and may be believed.
func (f found) counts(now time.Time) bool {
	keep := keepFound
	if !f.Refused {
		keep = keepUnrefused
	}
	return f.Rate > 0 && now.Sub(f.From) <= keep
}

// refused returns the rate after a refusal that has closed the registry; known is the
// rate until then if none was found yet.
func (f found) refused(now time.Time, c closure, known float64) found {
	rate, ok := f.at(now)
	if !ok || !f.Refused && rate > unlimited {
		rate = known
	}
	rate = min(rate, max(known, unlimited))
	// Requests that were under way together are refused together and count as one refusal.
	together := f.Refused && now.Before(f.From)
	switch {
	case together:
	case c.Count == 1 || !f.Refused:
		f.Sent, f.Since = f.sent(now), f.From
		f.Rate, f.Refused = max(rate/2, slowest), true
	case f.Sent > 0 && now.Sub(f.Since) <= longestWindow:
		// It refuses again before any success, so its limit was still used up: it allows
		// no more requests than were sent, until it is asked again.
		f.Rate = min(f.Rate, f.Sent/now.Add(c.Duration).Sub(f.Since).Seconds())
	}
	f.From = latest(f.From, now.Add(c.Duration))
	return f
}

// sent returns how many requests were sent at most since From.
func (f found) sent(now time.Time) float64 {
	passed := max(now.Sub(f.From), 0).Seconds()
	rate, ok := f.at(now)
	switch {
	case !ok || rate > unlimited:
		return 0 // not known
	case f.Refused:
		return (f.Rate + rate) / 2 * passed
	}
	return (rate - f.Rate) * doubling.Seconds() / math.Ln2
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

// explore starts the pulls from a registry at a low rate if nothing is known of it.
func (s *Store) explore(ctx context.Context, registry string) error {
	l, _, known := s.line(registry, Pull, HTTP1)
	if known || s.found(l).counts(s.Now()) {
		return nil
	}
	return s.changeRate(ctx, l, func(f found) (found, bool) {
		if f.counts(s.Now()) {
			return f, false
		}
		return found{Registry: registry, Kind: Pull, Rate: firstRate, From: s.Now()}, true
	})
}

// slowDown lowers the rate after a refusal. If the limit is stated, it was kept, and other
// clients have spent it: then the rate stays.
func (s *Store) slowDown(ctx context.Context, c closure) error {
	if c.Kind == Pull && s.hasStatedLimit(c.Registry) {
		return nil
	}
	l, known, limited := s.line(c.Registry, c.Kind, c.Protocol)
	if !limited {
		known.Rate = firstRate
	}
	return s.changeRate(ctx, l, func(f found) (found, bool) {
		f.Registry, f.Kind = l.registry, l.counted
		if rate, ok := f.at(s.Now()); ok && limited && rate > known.Rate {
			f.Rate, f.From = known.Rate, s.Now()
		}
		return f.refused(s.Now(), c, known.Rate), true
	})
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
		return next, changed, nil
	})
	if err != nil {
		return fmt.Errorf("storing the rate of %s: %w", l.registry, err)
	}
	return nil
}
