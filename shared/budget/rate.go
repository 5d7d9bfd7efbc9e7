package budget

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// rate returns how many requests of the kind may be sent to the registry over the protocol:
// the lowest of the documented rate, the found rate and probeRate. It returns false if there
// is none. While the registry is probed, the fleet sends these requests together.
func (s *Store) rate(registry string, kind Kind, protocol Protocol) (line, Rate, bool) {
	l, rate, limited := s.line(registry, kind, protocol)
	if found, ok := s.foundRate(l, rate); ok {
		rate, limited = Rate{Rate: found, grows: s.found(l).growsSince(s.Now())}, true
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
// start at a moderate rate, and each pull that is sent raises it until a registry refuses;
// a refusal halves it, and from then on it grows slowly. Until a refusal, the rate follows
// from the last reservation of the lane, and afterwards from time alone, so that workers
// share only reservations and refusals. Requests are spread evenly, so that any kind of
// limit is kept if the average is right.
const (
	// firstRate is the rate of the first pulls, in requests a second: fast enough not to
	// matter for a registry without a limit, and slow enough that few requests are under
	// way when a registry refuses.
	firstRate = 16.0
	// growth is by how many requests a second each pull raises the rate until a refusal. If
	// enough pulls wait, the rate doubles every 600 ms, and is unlimited after 2.9 s. If it grew
	// faster, more requests would be under way when a registry refuses. Only pulls raise it,
	// because time in which few are sent shows nothing about a higher rate.
	growth = 1.2
	// exploreHorizon is how far ahead slots are reserved meanwhile: they keep the rate at which
	// they were reserved.
	exploreHorizon = 50 * time.Millisecond
	// unlimited is the rate from which on there is no limit: all that wait are sent then, which
	// is hardly more than at this rate.
	unlimited = 500.0
	// creeping is how long the rate takes to double after a refusal, and creepingRequests
	// how many requests that takes at least. One or two of them are refused when the rate
	// is too high again.
	creeping         = 2 * time.Minute
	creepingRequests = 300
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
	if !f.Refused {
		return f.Rate, true
	}
	grow := max(creeping.Seconds(), creepingRequests/f.Rate)
	return f.Rate * (1 + passed.Seconds()/grow), true
}

// explores reports whether the rate still grows with each pull.
func (f found) explores(now time.Time) bool {
	return f.counts(now) && !f.Refused && f.Rate < unlimited
}

// counts reports whether the rate is known and may be believed.
func (f found) counts(now time.Time) bool {
	keep := keepFound
	if !f.Refused {
		keep = keepUnrefused
	}
	return f.Rate > 0 && now.Sub(f.From) <= keep
}

// growsSince returns since when each pull has raised the rate; zero if none does.
func (f found) growsSince(now time.Time) time.Time {
	if !f.explores(now) {
		return time.Time{}
	}
	return f.From
}

// refused returns the rate after a refusal that has closed the registry; known is the
// rate until then if none was found yet, or if it was still growing with each pull.
func (f found) refused(now time.Time, c closure, known float64) found {
	rate, ok := f.at(now)
	if !ok || f.explores(now) {
		rate = known
	}
	rate = min(rate, max(known, unlimited))
	// Requests that were under way together are refused together and count as one refusal.
	together := f.Refused && now.Before(f.From)
	switch {
	case together:
	case c.Count == 1 || !f.Refused:
		f.Sent, f.Since = f.sent(now, rate), f.From
		f.Rate, f.Refused = max(rate/2, slowest), true
	case f.Sent > 0 && now.Sub(f.Since) <= longestWindow:
		// It refuses again before any success, so its limit was still used up: it allows
		// no more requests than were sent, until it is asked again.
		f.Rate = min(f.Rate, f.Sent/now.Add(c.Duration).Sub(f.Since).Seconds())
	}
	f.From = latest(f.From, now.Add(c.Duration))
	return f
}

// sent returns how many requests were sent at most since From, until the rate was reached;
// 0 if that is not known.
func (f found) sent(now time.Time, rate float64) float64 {
	switch {
	case f.explores(now):
		return (rate-f.Rate)/growth + 1
	case f.Refused && f.counts(now):
		return (f.Rate + rate) / 2 * max(now.Sub(f.From), 0).Seconds()
	}
	return 0
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

// unrefused notes that a registry has refused nothing until its rate had grown so high that it
// is no limit.
func (s *Store) unrefused(ctx context.Context, l line) error {
	return s.changeRate(ctx, l, func(f found) (found, bool) {
		if !f.explores(s.Now()) {
			return f, false
		}
		f.Rate, f.From = unlimited, s.Now()
		return f, true
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
	if f := s.found(l); f.explores(s.Now()) {
		m, err := s.b.Last(ctx, streamPace, s.lane(l).subject)
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return fmt.Errorf("asking how fast %s was asked: %w", c.Registry, err)
		}
		if r, ok := readReservation(m); ok && m.Time.After(f.From) {
			known.Rate = max(f.Rate, 1/r.Every.Seconds())
		}
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
