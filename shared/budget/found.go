package budget

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A limit that nobody tells is found like the capacity of a network is by TCP: pulls
// start at a moderate rate that soon doubles and doubles; a refusal halves it, and
// from then on it creeps up. The rate is a function of time alone, so that nothing
// but a refusal has to be told to anybody. Requests are spread evenly, which any kind
// of limit bears as long as the average is right.
const (
	// firstRate is that of the first pulls, in requests a second: fast enough that
	// nobody notices it with a registry that has no limit, and slow enough that few
	// are under way when one that has a limit refuses.
	firstRate = 16.0
	// doubling is how long an unrefused rate takes to double.
	doubling = 4 * time.Second
	// unlimited is the rate from which on there is no limit: more than a fleet's
	// processes can start.
	unlimited = 200.0
	// creeping is how long the rate takes to grow by what it was after a refusal, and
	// creepingRequests how many requests that is at least: one or two in so many are
	// refused once the rate is too high again.
	creeping         = 2 * time.Minute
	creepingRequests = 100
	// slowest is the lowest rate: after backing off for the longest time, one request.
	slowest = 1 / float64(maxBackoff/time.Second)
	// keepFound is how long a found rate counts. The registry may have become better.
	keepFound = 24 * time.Hour
)

// found is the rate at which a registry is asked that does not tell its limit.
type found struct {
	Registry string    `json:"registry"`
	Kind     Kind      `json:"kind"`
	Rate     float64   `json:"rate"`    // requests a second, at From
	From     time.Time `json:"from"`    // by the broker's clock
	Refused  bool      `json:"refused"` // whether it has ever been too high
}

// current is the rate now; it reports false where there is none to respect.
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

// refused is the rate after a refusal that has closed the registry; known is the rate
// at which we came where none was found yet.
func (f found) refused(now time.Time, c closure, known float64) found {
	rate, limited := f.current(now)
	if !limited {
		rate = known
	}
	// Requests that were under way together are refused together: that is one refusal.
	// And refused again before any success, it was full still: that says nothing about
	// the rate at which we came, and is no reason to go faster either.
	if together := f.Refused && now.Before(f.From); !together && (c.Count == 1 || !f.Refused) {
		f.Rate, f.Refused = max(rate/2, slowest), true
	}
	f.From = later(f.From, now.Add(c.Duration))
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

// explore makes the rate of a registry's pulls start low, where nothing is known.
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

// slowDown changes the rate after the refusal that c stands for, unless the limit is
// one that we were told and keep: then somebody else spends from it.
func (s *Store) slowDown(ctx context.Context, c closure) error {
	if c.Kind == Pull && s.isTold(c.Registry) {
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

// isTold reports whether anybody has told us a limit of the registry, for whatever
// identity.
func (s *Store) isTold(registry string) bool {
	now := s.Now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, t := range s.view.told {
		if t.Registry != registry {
			continue
		}
		if _, origin := s.view.limit(registry, t.Identity, now); origin != None {
			return true
		}
	}
	return false
}

// changeRate stores what change makes of a rate, for everybody, this process first.
func (s *Store) changeRate(ctx context.Context, registry string, kind Kind, change func(found) (found, bool)) error {
	key := foundKey(registry, kind)
	for {
		var f found
		var revision uint64
		entry, err := s.limits.Get(ctx, key)
		if err == nil {
			revision = entry.Revision()
			if json.Unmarshal(entry.Value(), &f) != nil {
				f = found{} // not written by a worker
			}
		} else if errors.Is(err, jetstream.ErrKeyNotFound) {
			err = nil
		}
		next, changed := change(f)
		if err == nil && !changed {
			s.apply(entry)
			return nil
		}
		var data []byte
		if err == nil {
			data, err = json.Marshal(next)
		}
		if err == nil {
			revision, err = s.limits.Update(ctx, key, data, revision)
		}
		if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			continue
		}
		if err != nil {
			return fmt.Errorf("storing the rate of %s: %w", registry, err)
		}
		s.mu.Lock()
		if s.view.newer(bucketLimits, key, revision) {
			s.view.found[key] = next
		}
		s.mu.Unlock()
		return nil
	}
}
