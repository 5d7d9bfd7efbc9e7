package budget

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Standing is the state of a registry: its limit, the spent tokens, and when it allows requests.
type Standing struct {
	Registry string
	Identity string    // the one with the fewest pulls left, if the registry counts several
	Limit    Limit     // zero if none is known
	Counted  bool      // whether Spent is known: a rate counts nothing
	Spent    int       // tokens in the window
	NextSlot time.Time // when it allows the next pull; zero if it does now

	Closed      bool
	ClosedUntil time.Time // when the registry reopens, or is probed
	ClosedSince time.Time // when its outage began; zero if it only limits requests
	// RefusedSince is when a registry that limits requests was closed, if it has allowed none
	// since; zero if it is away.
	RefusedSince time.Time
	Reason       string // for people
}

func (s Standing) free() int { return max(0, s.Limit.Requests-s.Spent) }

// Standings returns the registries with a known limit and those that are closed, sorted by name.
func (s *Store) Standings(ctx context.Context) ([]Standing, error) {
	if err := s.CatchUp(ctx); err != nil {
		return nil, err
	}
	all := s.known()
	infos, err := s.streams(ctx)
	if err != nil {
		return nil, err
	}
	for _, info := range infos {
		registry, identity := info.Config.Metadata[metaRegistry], info.Config.Metadata[metaIdentity]
		limit, origin := s.stated(registry, identity)
		row := Standing{Registry: registry, Identity: identity, Limit: limit, Counted: true, Spent: int(info.State.Msgs)}
		if known := all[registry]; origin == None || known.Spent > 0 && known.free() < row.free() {
			continue
		}
		if row.Spent >= limit.Requests {
			if row.NextSlot, err = s.window(registry, identity).slot(ctx, s, limit); err != nil {
				return nil, err
			}
		}
		all[registry] = row
	}
	var rows []Standing
	for _, name := range slices.Sorted(maps.Keys(all)) {
		row := all[name]
		if c, ok := s.lastClosure(name); ok {
			c.describe(&row, s.Now())
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// describe adds to a standing that the registry is closed.
func (c closure) describe(row *Standing, now time.Time) {
	until := c.until()
	if c.away(now) {
		row.ClosedSince, until = c.Since, latest(until, c.leased())
	} else if c.Count == 0 || !now.Before(until) {
		return
	}
	if row.ClosedSince.IsZero() {
		row.RefusedSince = c.First
	}
	row.Closed, row.ClosedUntil, row.Reason = true, until, c.Reason
	if until.After(now) {
		row.NextSlot = latest(row.NextSlot, until)
	}
}

// known returns the registries in the buckets, with their limits.
func (s *Store) known() map[string]Standing {
	s.mu.RLock()
	defer s.mu.RUnlock()
	now := s.Now()
	rows := map[string]Standing{}
	for _, c := range s.view.closed {
		if c.Count > 0 && now.Before(c.until()) || c.away(now) {
			rows[c.Registry] = Standing{Registry: c.Registry}
		}
	}
	for _, f := range s.view.found {
		// A rate that was never refused is not a limit.
		if rate, ok := f.current(now); ok && f.Refused && (f.Kind == Pull || f.Kind == All) {
			if row, ok := rows[f.Registry]; !ok || row.Limit.rate() > rate {
				rows[f.Registry] = Standing{Registry: f.Registry, Limit: asLimit(rate)}
			}
		}
	}
	for _, l := range s.view.stated {
		if limit, origin := s.view.limit(l.Registry, l.Identity, now); origin != None {
			rows[l.Registry] = Standing{Registry: l.Registry, Identity: l.Identity, Limit: limit, Counted: true}
		}
	}
	return rows
}

// Allowance is the pulls that a registry allows an identity from now on, if nothing else spends them.
type Allowance struct {
	Limit  Limit
	Origin Origin        // None: no limit is known
	Now    time.Time     // by the broker's clock
	Open   time.Time     // Now, or when the registry reopens
	Held   time.Duration // how long a token of the limit is held; zero for a rate, which counts none
	Spent  int           // tokens that are held

	tokens tokens
}

// Free returns how many pulls are allowed at once while the registry is open.
func (a Allowance) Free() int { return max(0, a.Limit.Requests-a.Spent) }

// Counted reports whether pulls are counted. Otherwise, the limit is a rate, or unknown.
func (a Allowance) Counted() bool { return a.Held > 0 }

// Expires returns when the n-th oldest of the spent tokens expires, counted from 1.
func (a Allowance) Expires(ctx context.Context, n int) (time.Time, error) {
	return a.tokens.expires(ctx, n)
}

// Allowance returns the allowance of an identity at a registry. If set is not the zero limit,
// it counts instead of the broker's. Allowance changes nothing.
func (s *Store) Allowance(ctx context.Context, registry, identity string, set Limit) (Allowance, error) {
	now := s.Now()
	a := Allowance{Limit: set, Origin: Set, Now: now, Open: now}
	if c, closed := s.closure(registry); closed {
		a.Open = c.until()
	}
	if set == (Limit{}) {
		a.Limit, a.Origin = s.stated(registry, identity)
	}
	if a.Origin == None {
		a.Limit, a.Origin = s.pullRate(registry)
		return a, nil
	}
	age := a.Limit.Window + slack(a.Limit.Window)
	a.Held = age + expiryDelay
	w := s.window(registry, identity)
	stream, err := s.b.JS.Stream(ctx, w.name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return a, nil
	}
	if err == nil {
		a.tokens, err = w.tokens(ctx, stream, age)
	}
	a.Spent = a.tokens.spent()
	return a, err
}

// pullRate returns the rate of the pulls from a registry without a stated limit: the lower
// one of the documented and the found rate.
func (s *Store) pullRate(registry string) (Limit, Origin) {
	l, documented, limited := s.line(registry, Pull, HTTP1)
	rate := documented.Rate
	origin := Documented
	if found, ok := s.refusedRate(l, documented); ok {
		rate, limited, origin = found, true, Found
	}
	if all, ok := s.refusedRate(line{registry, All, HTTP1}, Rate{}); ok && (!limited || all < rate) {
		rate, limited, origin = all, true, Found
	}
	if !limited {
		return Limit{}, None
	}
	return asLimit(rate), origin
}
