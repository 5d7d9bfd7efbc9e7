package budget

import (
	"context"
	"fmt"
	"math"
	"time"
)

// Kind is what a request is for. Registries limit each kind separately.
type Kind string

// The kinds of requests.
const (
	Pull     Kind = "pull"     // GET of a manifest; needs a token of Take
	Manifest Kind = "manifest" // HEAD of a manifest
	Tags     Kind = "tags"     // tags/list
	API      Kind = "api"      // the registry's own listing: quay.io/api, hub.docker.com
	Other    Kind = "other"    // referrers, tokens and the rest
)

// quay is quay.io's name.
const quay = "quay.io"

// documented are the requests a second that registries allow an address according to
// their documentation, by kind. Those of quay.io are the zones "light" (50 r/s) and "heavy"
// (5 r/s) of its nginx (github.com/quay/quay, conf/nginx/rate-limiting.conf.jnj); the
// bursts that they allow are not used. Docker Hub allows thousands a minute, which no
// fleet reaches, and limits pulls by headers.
var documented = map[string]map[Kind]float64{
	quay: {Manifest: 50, Tags: 5, API: 5},
}

// countedAs returns the kind as the registry counts it: for quay.io, a GET of a manifest
// is like a HEAD.
func countedAs(registry string, kind Kind) Kind {
	if registry == quay && kind == Pull {
		return Manifest
	}
	return kind
}

// headroom is the part of a documented rate that is used. Requests do not all take the
// same time to arrive, so some arrive closer together than they were sent.
const headroom = 0.9

// rate returns how many requests of the kind a second may be sent to the registry: the
// lowest of the documented rate, the found rate and probeRate. It returns false if there
// is none.
func (s *Store) rate(registry string, kind Kind) (float64, bool) {
	rate, limited := documentedRate(registry, kind)
	if found, ok := s.foundRate(registry, kind); ok && (!limited || found < rate) {
		rate, limited = found, true
	}
	if s.probing(registry, kind) && (!limited || probeRate < rate) {
		rate, limited = probeRate, true
	}
	return rate, limited
}

// probeRate is the rate for a registry that was reopened and has not answered yet. If it
// refuses again, only one request was in vain.
const probeRate = 1.0

// documentedRate returns the part of the documented rate that is used, if there is one.
func documentedRate(registry string, kind Kind) (float64, bool) {
	rate, ok := documented[registry][countedAs(registry, kind)]
	return rate * headroom, ok
}

// interval returns the time between two requests.
func interval(rate float64) time.Duration { return time.Duration(float64(time.Second) / rate) }

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
	// slowest is the lowest rate: one request in the longest backoff.
	slowest = 1 / float64(maxBackoff/time.Second)
	// keepFound is how long a found rate counts. The limit may have changed since.
	keepFound = 24 * time.Hour
)

// found is the rate of requests to a registry whose limit is not known.
type found struct {
	Registry string    `json:"registry"`
	Kind     Kind      `json:"kind"`
	Rate     float64   `json:"rate"`    // requests a second, at From
	From     time.Time `json:"from"`    // by the broker's clock
	Refused  bool      `json:"refused"` // whether it has ever been too high
}

// stored implements value.
func (f found) stored(time.Time) (found, bool) { return f, f.Rate >= 0 }

// current returns the rate now, and false if there is none to keep.
func (f found) current(now time.Time) (float64, bool) {
	passed := max(now.Sub(f.From), 0)
	if f.Rate == 0 || passed > keepFound {
		return 0, false
	}
	rate := f.Rate * math.Exp2(passed.Seconds()/doubling.Seconds())
	if f.Refused {
		grow := max(creeping.Seconds(), creepingRequests/f.Rate)
		rate = f.Rate * (1 + passed.Seconds()/grow)
	}
	return rate, rate < unlimited
}

// refused returns the rate after a refusal that has closed the registry; known is the
// rate until then if none was found yet.
func (f found) refused(now time.Time, c closure, known float64) found {
	rate, limited := f.current(now)
	if !limited {
		rate = known
	}
	// Requests that were under way together are refused together and count as one refusal.
	// If the registry refuses again before any success, its limit was still used up: then
	// the rate stays as it is.
	if together := f.Refused && now.Before(f.From); !together && (c.Count == 1 || !f.Refused) {
		f.Rate, f.Refused = max(rate/2, slowest), true
	}
	f.From = latest(f.From, now.Add(c.Duration))
	return f
}

func foundKey(registry string, kind Kind) string {
	return keyFound + "." + token(registry) + "." + string(countedAs(registry, kind))
}

func (s *Store) foundRate(registry string, kind Kind) (float64, bool) {
	s.mu.RLock()
	f := s.view.found[foundKey(registry, kind)]
	s.mu.RUnlock()
	return f.current(s.Now())
}

// explore starts the pulls from a registry at a low rate if nothing is known of it.
func (s *Store) explore(ctx context.Context, registry string) error {
	if _, known := documentedRate(registry, Pull); known {
		return nil
	}
	s.mu.RLock()
	f := s.view.found[foundKey(registry, Pull)]
	s.mu.RUnlock()
	if f.Rate > 0 && s.Now().Sub(f.From) <= keepFound {
		return nil
	}
	return s.changeRate(ctx, registry, Pull, func(f found) (found, bool) {
		if f.Rate > 0 && s.Now().Sub(f.From) <= keepFound {
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
	known, ok := documentedRate(c.Registry, c.Kind)
	if !ok {
		known = firstRate
	}
	return s.changeRate(ctx, c.Registry, c.Kind, func(f found) (found, bool) {
		f.Registry, f.Kind = c.Registry, countedAs(c.Registry, c.Kind)
		return f.refused(s.Now(), c, known), true
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

// changeRate changes the rate of a registry as update does.
func (s *Store) changeRate(ctx context.Context, registry string, kind Kind, change func(found) (found, bool)) error {
	err := update(ctx, s, s.limits, foundKey(registry, kind), func(f found) (found, bool, error) {
		next, changed := change(f)
		return next, changed, nil
	})
	if err != nil {
		return fmt.Errorf("storing the rate of %s: %w", registry, err)
	}
	return nil
}
