package budget

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
)

// SpentError says that a registry allows nothing for now: its budget is spent, or
// it is closed. It is no failure of anything. Come back at the slot, or a random
// while after it: everybody else who was refused does too.
type SpentError struct {
	Registry string
	Slot     time.Time // by the broker's clock
	Reason   string
	Since    time.Time // when an outage began, by the broker's clock; zero: it is a limit
	// CutOff is that only this process does not reach the registry.
	CutOff bool
}

// Error is one line.
func (e *SpentError) Error() string {
	if !e.Since.IsZero() {
		return fmt.Sprintf("%s has been away since %s: %s", e.Registry, e.Since.UTC().Format(time.RFC3339), e.Reason)
	}
	return fmt.Sprintf("%s allows nothing until %s: %s", e.Registry, e.Slot.UTC().Format(time.RFC3339), e.Reason)
}

// Token is the permission for one request: one manifest. The zero token is that of
// a registry without a limit.
type Token struct {
	store    *Store
	window   *window
	stream   jetstream.Stream
	sequence uint64
	slack    time.Duration
	taken    time.Time // by the local clock, before the broker dated it
	now      func() time.Time
}

// A token's slack is divided: the request starts in its first quarter, and what has
// not been sent after three quarters is aborted, so that what was on its way by then
// has the last quarter to arrive.
const (
	startQuarters = 1
	abortQuarters = 3
)

// fresh reports whether a request that starts now may still use the token.
func (t Token) fresh() bool { return t.now().Sub(t.taken) <= t.slack*startQuarters/4 }

// deadline is when, by the local clock, the request must have been sent.
func (t Token) deadline() time.Time { return t.taken.Add(t.slack * abortQuarters / 4) }

// ErrLate is the cause of the end of Token.Within's context. Nothing is wrong with what was
// requested.
var ErrLate = errors.New("the request was not sent in time, because this machine or its network is slow")

// Within returns the context for the token's request. It ends with the cause ErrLate unless
// Sent is called before the token's deadline. The token of such a request is not given back,
// because the request may have arrived. Without a limit, there is no deadline.
func (t Token) Within(ctx context.Context) context.Context {
	if t.window == nil {
		return ctx
	}
	return WithDeadline(ctx, t.deadline())
}

// WithDeadline returns the context for a request that must have been sent by the deadline,
// as Token.Within does.
func WithDeadline(ctx context.Context, deadline time.Time) context.Context {
	ctx, end := context.WithCancelCause(ctx)
	if !time.Now().Before(deadline) { // this process was suspended
		end(ErrLate)
	}
	timer := time.AfterFunc(time.Until(deadline), func() { end(ErrLate) })
	context.AfterFunc(ctx, func() { timer.Stop() })
	return context.WithValue(ctx, timerKey{}, timer)
}

type timerKey struct{}

// Sent notes that the request of a context was sent. It may now take as long as it needs.
// Without a deadline, and a second time, Sent does nothing.
func Sent(ctx context.Context) {
	if timer, ok := ctx.Value(timerKey{}).(*time.Timer); ok {
		timer.Stop()
	}
}

// GiveBack returns a token whose request was never sent, and never will be. A second
// time does no harm.
func (t Token) GiveBack(ctx context.Context) error {
	if t.window == nil {
		return nil
	}
	// ErrMsgDeleteUnsuccessful: it has gone already. Where it has not, it goes with age.
	err := t.stream.DeleteMsg(ctx, t.sequence)
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return fmt.Errorf("giving a token of %s back: %w", t.window.registry, err)
	}
	return nil
}

// Take takes a token for one manifest of the registry, just before the request that
// spends it starts. It returns a *SpentError where nothing is allowed for now; any
// other error is trouble with the broker, and no permission. A registry whose limit
// has to be found makes it wait for some seconds at most; one that is known to have
// none costs nothing. Mirror names take turns; an empty one does not wait for others.
func (s *Store) Take(ctx context.Context, mirror, registry, identity string) (Token, error) {
	if err := s.permit(registry); err != nil {
		return Token{}, err
	}
	limit, origin := s.told(registry, identity)
	if origin == None {
		return Token{}, s.pull(ctx, registry)
	}
	if s.probing(registry, Pull) {
		if err := s.Pace(ctx, registry, Pull); err != nil {
			return Token{}, err
		}
	}
	return s.window(registry, identity).take(ctx, s, mirror, limit)
}

func (w *window) take(ctx context.Context, s *Store, mirror string, limit Limit) (Token, error) {
	a, err := w.adjust(ctx, s, limit)
	if err != nil {
		return Token{}, err
	}
	if until, yields, err := w.yield(ctx, s, mirror, a.stream, limit); err != nil {
		return Token{}, err
	} else if yields {
		return Token{}, w.spent(ctx, s, mirror, until, fmt.Sprintf("its budget of %s is shared with another mirror, whose turn it is", limit))
	}
	t := Token{store: s, window: w, stream: a.stream, slack: a.loose.at(limit.Window, s.Now()), taken: s.clock.local(), now: s.clock.local}
	ack, err := s.b.JS.Publish(ctx, w.subject(mirror), nil, jetstream.WithExpectStream(w.name))
	switch {
	case err == nil:
	case full(err):
		slot, err := w.slot(ctx, s, limit, 1)
		if err != nil {
			return Token{}, err
		}
		return Token{}, w.spent(ctx, s, mirror, slot, fmt.Sprintf("its budget of %s is spent", limit))
	default:
		// Somebody may have removed the stream: the next token makes sure of it.
		w.forget()
		return Token{}, fmt.Errorf("taking a token of %s: %w", w.registry, s.b.Unstored(ctx, w.name, err))
	}
	t.sequence = ack.Sequence
	if !t.fresh() {
		return Token{}, errors.Join(fmt.Errorf("taking a token of %s: %w: it took too long to answer", w.registry, broker.ErrUnreachable), t.GiveBack(ctx))
	}
	return t, nil
}

// spent refuses a token, and has the others know that somebody waits for it.
func (w *window) spent(ctx context.Context, s *Store, mirror string, slot time.Time, reason string) error {
	if err := w.claim(ctx, s, mirror, slot); err != nil {
		return err
	}
	return &SpentError{Registry: w.registry, Slot: slot, Reason: reason}
}

// Slot returns when, by the broker's clock, k tokens will be free, or as many as
// the limit has where it is less: now, where they are.
func (s *Store) Slot(ctx context.Context, registry, identity string, k int) (time.Time, error) {
	slot := s.Now()
	if c, ok := s.closure(registry); ok {
		slot = c.until()
	}
	var next time.Time
	var err error
	if limit, origin := s.told(registry, identity); origin != None {
		next, err = s.window(registry, identity).slot(ctx, s, limit, k)
	} else if rate, limited := s.rate(registry, Pull); limited {
		if next, err = s.lane(registry, Pull).free(ctx, s); err == nil {
			next = later(next, slot).Add(time.Duration(k-1) * interval(rate))
		}
	}
	return later(next, slot), err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
