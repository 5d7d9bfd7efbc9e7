package budget

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Documented is the Origin of a rate that a registry's documentation tells.
const Documented Origin = "documentation"

// Outlook is what a registry allows from now on, where nobody else spends of it.
type Outlook struct {
	Limit  Limit
	Origin Origin // None: as far as we know there is no limit
	// Counted says that every pull of a window is counted, and Spent how many were.
	Counted bool
	Spent   int

	now    time.Time        // by the broker's clock
	from   time.Time        // now, or when the registry reopens
	tokens jetstream.Stream // nil: nothing was spent
	state  jetstream.StreamState
}

// Outlook returns what the registry allows this identity. The limit that is set,
// where it is not the zero one, goes before what the broker knows.
func (s *Store) Outlook(ctx context.Context, registry, identity string, set Limit) (Outlook, error) {
	now := s.Now()
	o := Outlook{Limit: set, Origin: Set, now: now, from: now}
	if c, closed := s.closure(registry); closed {
		o.from = c.until()
	}
	if set == (Limit{}) {
		o.Limit, o.Origin = s.told(registry, identity)
	}
	if o.Origin == None {
		o.Limit, o.Origin = s.paced(registry)
		return o, nil
	}
	o.Counted = true
	stream, err := s.b.JS.Stream(ctx, s.window(registry, identity).name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return o, nil
	}
	var info *jetstream.StreamInfo
	if err == nil {
		info, err = stream.Info(ctx, jetstream.WithDeletedDetails(true))
	}
	if err != nil {
		return Outlook{}, fmt.Errorf("asking for the budget of %s: %w", registry, err)
	}
	o.tokens, o.state, o.Spent = stream, info.State, int(info.State.Msgs)
	return o, nil
}

// paced is the rate at which a registry is pulled from that has told us no limit: the
// lower one of what is documented and what was found by being refused.
func (s *Store) paced(registry string) (Limit, Origin) {
	rate, limited := documentedRate(registry, Pull)
	origin := Documented
	s.mu.RLock()
	f := s.view.found[foundKey(registry, Pull)]
	s.mu.RUnlock()
	if found, ok := f.current(s.Now()); ok && f.Refused && (!limited || found < rate) {
		rate, limited, origin = found, true, Found
	}
	if !limited {
		return Limit{}, None
	}
	return asLimit(rate), origin
}

// Free is how many pulls are allowed at once, once the registry is open.
func (o Outlook) Free() int { return max(0, o.Limit.Requests-o.Spent) }

// Window is the limit's window as RATE_LIMITS has it, "6h".
func (o Outlook) Window() string { return short(o.Limit.Window) }

// Wait returns how long it takes until the last of n pulls can be made.
func (o Outlook) Wait(ctx context.Context, n int) (time.Duration, error) {
	last, err := o.Last(ctx, n)
	return last.Sub(o.now), err
}

// Last returns when, by the broker's clock, the last of n pulls can be made, n from 1:
// each as soon as it is allowed. Where there is no limit, that is when the registry
// is open.
func (o Outlook) Last(ctx context.Context, n int) (time.Time, error) {
	if o.Origin == None {
		return o.from, nil
	}
	if !o.Counted {
		return o.from.Add(time.Duration(n-1) * o.Limit.Window / time.Duration(o.Limit.Requests)), nil
	}
	held := o.Limit.Window + slack(o.Limit.Window) + expiryDelay
	return lastPull(o.from, o.Limit.Requests, held, o.Spent, n, func(i int) (time.Time, error) {
		m, err := o.tokens.GetMsg(ctx, nth(o.state, i))
		if errors.Is(err, jetstream.ErrMsgNotFound) { // it has just gone
			return o.from.Add(-held), nil
		}
		if err != nil {
			return time.Time{}, fmt.Errorf("asking for a budget's tokens: %w", err)
		}
		return m.Time, nil
	})
}

// lastPull returns when the last of n pulls can be made that begin at a given time,
// where a window holds each token for so long, and limit of them at most. So many are
// spent; oldest tells when the i-th oldest of them was, counted from 1.
//
// Each pull takes the place of the one limit before it. So n pulls are as many whole
// turns of the window as they fill, after the place that the last of them takes in
// the first turn: a free one, or that of a token which has to go.
func lastPull(from time.Time, limit int, held time.Duration, spent, n int, oldest func(i int) (time.Time, error)) (time.Time, error) {
	turns, place := (n-1)/limit, (n-1)%limit+1
	if gone := place - (limit - spent); gone > 0 {
		taken, err := oldest(gone)
		if err != nil {
			return time.Time{}, err
		}
		from = later(from, taken.Add(held))
	}
	return from.Add(time.Duration(turns) * held), nil
}
