package budget

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
)

// SpentError is returned if a registry allows nothing for now: its budget is spent, or it
// is closed. It does not count as a failure. Callers try again at the slot, or a random
// time after it (Spread), because many were refused together.
type SpentError struct {
	Registry string
	Slot     time.Time // by the broker's clock
	Reason   string
	Since    time.Time // when an outage began, by the broker's clock; zero: it is a limit
	// CutOff is true if only this process does not reach the registry.
	CutOff bool
}

// Error returns one line.
func (e *SpentError) Error() string {
	if !e.Since.IsZero() {
		return fmt.Sprintf("%s has been away since %s: %s", e.Registry, e.Since.UTC().Format(time.RFC3339), e.Reason)
	}
	return fmt.Sprintf("%s allows nothing until %s: %s", e.Registry, e.Slot.UTC().Format(time.RFC3339), e.Reason)
}

// Token is the permission for one request: one manifest. The zero token is for a registry
// without a limit.
type Token struct {
	store    *Store
	window   *window
	stream   jetstream.Stream
	sequence uint64
	slack    time.Duration
	taken    time.Time // by the local clock, before the broker dated it
	now      func() time.Time
}

// The slack of a token is divided: its request starts in the first quarter. After three
// quarters, a request that was not sent is aborted, so that one that was sent has the last
// quarter to arrive.
const (
	startQuarters = 1
	abortQuarters = 3
)

// fresh reports whether a request that starts now may still use the token.
func (t Token) fresh() bool { return t.now().Sub(t.taken) <= t.slack*startQuarters/4 }

// deadline returns when, by the local clock, the request must have been sent.
func (t Token) deadline() time.Time { return t.taken.Add(t.slack * abortQuarters / 4) }

// ErrBroker is wrapped by errors of requests that were not sent, because the broker did not answer
// whether they are allowed. Nothing is wrong with the requested image.
var ErrBroker = errors.New("cannot check the registry's budget at the broker")

// ErrLate is the cause of the end of Token.Within's context. Nothing is wrong with the
// requested image.
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

// Sent records that the request of a context was sent. The request may then take any time. Without
// a deadline, and a second time, Sent does nothing.
func Sent(ctx context.Context) {
	if timer, ok := ctx.Value(timerKey{}).(*time.Timer); ok {
		timer.Stop()
	}
}

// GiveBack returns a token whose request was never sent and never will be. It may be called
// twice.
func (t Token) GiveBack(ctx context.Context) error {
	if t.window == nil {
		return nil
	}
	// ErrMsgDeleteUnsuccessful: it has expired already, or will.
	err := t.stream.DeleteMsg(ctx, t.sequence)
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return fmt.Errorf("giving a token of %s back: %w", t.window.registry, err)
	}
	return nil
}

// GiveBack returns tokens as Token.GiveBack does.
func GiveBack(ctx context.Context, tokens []Token) error {
	var failed []error
	for _, t := range tokens {
		failed = append(failed, t.GiveBack(ctx))
	}
	return errors.Join(failed...)
}

// Take takes a token for one manifest of the registry, just before the request that
// spends it starts. It returns a *SpentError if nothing is allowed for now. Any other
// error comes from the broker, and the request must not be sent either. If the limit is
// not known, Take waits some seconds at most; if there is none, it sends no request.
// Mirror names take turns; an empty name does not wait for others.
func (s *Store) Take(ctx context.Context, mirror, registry, identity string) (Token, error) {
	return s.take(ctx, mirror, registry, identity, 1)
}

// take takes one of the tokens for a copy that needs so many.
func (s *Store) take(ctx context.Context, mirror, registry, identity string, needed int) (Token, error) {
	if err := s.permit(registry); err != nil {
		return Token{}, err
	}
	limit, origin := s.stated(registry, identity)
	if origin == None {
		if err := s.Explore(ctx, registry, Pull); err != nil {
			return Token{}, err
		}
		return Token{}, s.Pace(ctx, registry, Pull)
	}
	if s.probing(registry, Pull) {
		if err := s.Pace(ctx, registry, Pull); err != nil {
			return Token{}, err
		}
	}
	return s.window(registry, identity).take(ctx, s, mirror, limit, needed)
}

// blobsOfCopy is how many blobs a copy of skopeo is expected to request: a config, and the
// layers that the destination does not have yet.
const blobsOfCopy = 3

// TakeForCopy takes a token as Take does for each pull of a process of skopeo, which speaks only HTTP/1.1.
// It first waits until the blobs of an image may be requested. The first token is the oldest one.
func (s *Store) TakeForCopy(ctx context.Context, mirror, registry, identity string, pulls int) ([]Token, error) {
	if err := s.Explore(ctx, registry, Blob); err != nil {
		return nil, err
	}
	for range blobsOfCopy {
		if err := s.Pace(ctx, registry, Blob); err != nil {
			return nil, err
		}
	}
	if limit, origin := s.stated(registry, identity); origin != None {
		pulls = max(min(pulls, limit.Requests), 1) // more than the limit could never be taken
	}
	var tokens []Token
	for range pulls {
		token, err := s.take(ctx, mirror, registry, identity, pulls)
		if err != nil {
			return nil, errors.Join(err, GiveBack(context.WithoutCancel(ctx), tokens))
		}
		tokens = append(tokens, token)
	}
	return tokens, nil
}

// Counts reports whether the registry counts the pulls of an identity, so that each needs a
// token of Take.
func (s *Store) Counts(registry, identity string) bool {
	_, origin := s.stated(registry, identity)
	return origin != None
}

// errStale is returned if the broker took so long to answer that the request of a token cannot start in time.
var errStale = fmt.Errorf("%w: it took too long to answer", broker.ErrUnreachable)

// take takes a token. If the broker does not answer in time, take tries again as long as an election
// takes. A token that is lost with an answer stays spent.
func (w *window) take(ctx context.Context, s *Store, mirror string, limit Limit, needed int) (Token, error) {
	for came := s.clock.local(); ; {
		t, err := w.takeOnce(ctx, s, mirror, limit, needed)
		if !broker.NoAnswer(err) && !errors.Is(err, errStale) || !s.clock.local().Before(came.Add(maxQueue)) || sleep(ctx, electionPause) != nil {
			return t, err
		}
	}
}

func (w *window) takeOnce(ctx context.Context, s *Store, mirror string, limit Limit, needed int) (Token, error) {
	a, err := w.adjust(ctx, s, limit)
	if err != nil {
		return Token{}, err
	}
	if until, yields, err := w.yield(ctx, s, mirror, a.stream, limit, needed); err != nil {
		return Token{}, err
	} else if yields {
		return Token{}, w.spent(ctx, s, mirror, until, fmt.Sprintf("its budget of %s is shared with another mirror, whose turn it is", limit))
	}
	t := Token{store: s, window: w, stream: a.stream, slack: a.loose.at(limit.Window, s.Now()), taken: s.clock.local(), now: s.clock.local}
	ack, err := s.b.JS.Publish(ctx, w.subject(mirror), nil, jetstream.WithExpectStream(w.name), jetstream.WithRetryAttempts(0))
	switch {
	case err == nil:
	case full(err):
		slot, err := w.slot(ctx, s, limit)
		if err != nil {
			return Token{}, err
		}
		return Token{}, w.spent(ctx, s, mirror, slot, fmt.Sprintf("its budget of %s is spent", limit))
	default:
		// The stream may have been deleted: the next token checks it.
		w.forget()
		return Token{}, fmt.Errorf("taking a token of %s: %w", w.registry, s.b.Unstored(ctx, w.name, err))
	}
	t.sequence = ack.Sequence
	if !t.fresh() {
		return Token{}, errors.Join(fmt.Errorf("taking a token of %s: %w", w.registry, errStale), t.GiveBack(ctx))
	}
	return t, nil
}

// spent refuses a token, and announces to the fleet that the mirror name waits for it.
func (w *window) spent(ctx context.Context, s *Store, mirror string, slot time.Time, reason string) error {
	if err := w.claim(ctx, s, mirror, slot); err != nil {
		return err
	}
	return &SpentError{Registry: w.registry, Slot: slot, Reason: reason}
}

// Mirror names share a budget by turns. A name that is refused announces by when it comes
// back. Until then, no other name takes more than an equal part of the
// limit. A name that is alone has all of the limit, and sends no extra request.

const (
	// Workers that were refused together come back at different times: within a part of
	// their wait, 1/spreadPart, and within maxSpread.
	spreadPart = 10
	maxSpread  = time.Minute
	// handOver is the time between a chunk's due time and its first request.
	handOver = 5 * time.Second
)

// Spread returns the time over which workers that wait so long spread their next tries.
func Spread(wait time.Duration) time.Duration {
	return min(max(wait, 0)/spreadPart, maxSpread) + time.Second
}

// turn is a mirror name that was refused and comes back by a time.
type turn struct {
	Registry string    `json:"registry"`
	Identity string    `json:"identity,omitempty"`
	Mirror   string    `json:"mirror"`
	Until    time.Time `json:"until"` // by the broker's clock
}

// stored implements value.
func (t turn) stored(time.Time) (turn, bool) { return t, true }

// claim announces that the mirror name waits for its turn at a slot.
func (w *window) claim(ctx context.Context, s *Store, mirror string, slot time.Time) error {
	if mirror == "" {
		return nil
	}
	t := turn{Registry: w.registry, Identity: w.identity, Mirror: mirror}
	key := keyTurn + "." + token(w.registry) + "." + token(w.identity) + "." + token(t.Mirror)
	s.mu.RLock()
	known := s.view.turns[key].Until
	s.mu.RUnlock()
	if known.After(slot) {
		return nil
	}
	t.Until = slot.Add(Spread(slot.Sub(s.Now())) + handOver)
	if err := s.store(ctx, s.limits, key, t); err != nil {
		return fmt.Errorf("waiting for the budget of %s: %w", w.registry, err)
	}
	return nil
}

// yield reports whether the mirror name must leave free tokens to others, and until when. It
// must if others wait and it has had its part, which is never less than one copy needs.
func (w *window) yield(ctx context.Context, s *Store, mirror string, stream jetstream.Stream, limit Limit, needed int) (until time.Time, yields bool, err error) {
	others, until := s.waiting(w, mirror)
	if others == 0 {
		return time.Time{}, false, nil
	}
	subject := w.subject(mirror)
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return time.Time{}, false, fmt.Errorf("reading the budget of %s: %w", w.registry, err)
	}
	part := max((limit.Requests+others)/(others+1), needed) // rounded up
	return until, int(info.State.Subjects[subject]) >= part, nil
}

// waiting returns how many other mirror names wait for the budget, and when the last of
// them will have come back.
func (s *Store) waiting(w *window, mirror string) (others int, until time.Time) {
	now := s.Now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, t := range s.view.turns {
		if t.Registry == w.registry && t.Identity == w.identity && t.Mirror != mirror && now.Before(t.Until) {
			others++
			until = latest(until, t.Until)
		}
	}
	return others, until
}
