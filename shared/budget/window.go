package budget

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
)

const (
	// expiryDelay is how long a message may outlive its age: nats-server looks every
	// 250 ms, by a clock that ticks every 100 ms (filestore.go, ats.go).
	expiryDelay = 350 * time.Millisecond
	// maxDuplicates is the longest deduplication window nats-server sets by itself;
	// it must not exceed the age of messages.
	maxDuplicates = 2 * time.Minute
	// maxBatch is the most messages of one atomic batch (ADR-50).
	maxBatch = 1000
)

// window is the stream that holds the tokens of one budget.
type window struct {
	registry, identity string
	name, subjects     string

	adjusting sync.Mutex
	existed   bool // as far as this process has seen; guarded by adjusting
	adjusted  atomic.Pointer[adjustment]

	believing sync.Mutex
	believed  belief

	late atomic.Int32 // requests in a row that were not sent in time
}

// adjustment is the last known state of the stream.
type adjustment struct {
	limit  Limit
	stream jetstream.Stream
	loose  loose
}

func (s *Store) window(registry, identity string) *window {
	name := streamWindow + token(registry) + separator + token(identity)
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.windows[name]
	if w == nil {
		w = &window{
			registry: registry, identity: identity,
			name: name, subjects: subjectWindow + "." + token(registry) + "." + token(identity),
		}
		s.windows[name] = w
	}
	return w
}

// subject returns the subject of a mirror name's tokens. An empty name is for pulls of
// other clients.
func (w *window) subject(mirror string) string { return w.subjects + "." + token(mirror) }

// forget makes the next token check the configuration.
func (w *window) forget() { w.adjusted.Store(nil) }

// adjust makes sure that the stream has the limit, or the newer one that the broker has: a
// worker that is behind must not undo a newer limit. Messages above a lowered limit
// stay, because they were spent.
func (w *window) adjust(ctx context.Context, s *Store, limit Limit) (*adjustment, error) {
	if a := w.adjusted.Load(); a != nil && a.limit == limit {
		return a, nil
	}
	w.adjusting.Lock()
	defer w.adjusting.Unlock()
	if a := w.adjusted.Load(); a != nil && a.limit == limit {
		return a, nil
	}
	for {
		if err := s.read(ctx, s.limits); err != nil {
			return nil, err
		}
		if now, origin := s.stated(w.registry, w.identity); origin != None {
			limit = now
		}
		stream, changed, err := w.ensure(ctx, s, limit)
		if err != nil {
			return nil, fmt.Errorf("the budget of %s: %w", w.registry, err)
		}
		w.existed = true
		if !changed {
			a := &adjustment{limit: limit, stream: stream, loose: looseOf(stream.CachedInfo().Config.Metadata)}
			w.adjusted.Store(a)
			return a, nil
		}
	}
}

// ensure creates or updates the stream, and reports whether it had to.
func (w *window) ensure(ctx context.Context, s *Store, limit Limit) (jetstream.Stream, bool, error) {
	stream, err := s.b.JS.Stream(ctx, w.name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if w.existed {
			w.existed = false
			if err := broker.AwaitDeletion(ctx); err != nil {
				return nil, false, err
			}
		}
		stream, err = s.b.JS.CreateStream(ctx, w.config(jetstream.StreamConfig{Replicas: s.b.Replicas}, limit, s.Now()))
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			err = nil // another worker was faster: look again
		}
		return stream, true, err
	}
	if err != nil {
		return nil, false, err
	}
	have := stream.CachedInfo().Config
	want := w.config(have, limit, s.Now())
	if slices.Equal(have.Subjects, want.Subjects) && have.MaxMsgs == want.MaxMsgs && have.MaxAge == want.MaxAge && have.Discard == want.Discard {
		return stream, false, nil
	}
	stream, err = s.b.JS.UpdateStream(ctx, want)
	return stream, true, err
}

// config returns the stream's configuration. It keeps the settings of operators.
func (w *window) config(c jetstream.StreamConfig, limit Limit, now time.Time) jetstream.StreamConfig {
	c.Name = w.name
	c.Description = "skopeo-worker: spent tokens of the budget of " + w.registry
	c.Subjects = []string{w.subjects + ".*"}
	loose := looseOf(c.Metadata)
	c.Metadata = loose.in(map[string]string{metaRegistry: w.registry, metaIdentity: w.identity})
	c.Storage = jetstream.FileStorage
	c.MaxMsgs = int64(limit.Requests)
	c.MaxAge = loose.age(limit.Window, now)
	c.Discard = jetstream.DiscardNew
	c.Duplicates = min(limit.Window, maxDuplicates)
	c.AllowAtomicPublish = true
	return c
}

// codeStoreFailed is nats-server's JSStreamStoreFailedF: a message could not be stored,
// for the reason in the text (ErrMaxMsgs in store.go).
const (
	codeStoreFailed = 10077
	textMaxMessages = "maximum messages exceeded"
)

// full reports whether the window has no token left.
func full(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeStoreFailed && strings.Contains(api.Description, textMaxMessages)
}

// slot returns when a token will be free: now if one is free already.
func (w *window) slot(ctx context.Context, s *Store, limit Limit) (time.Time, error) {
	a, err := w.adjust(ctx, s, limit)
	if err != nil {
		return time.Time{}, err
	}
	t, err := w.tokens(ctx, a.stream, a.loose.age(limit.Window, s.Now()))
	if err != nil || t.spent() < limit.Requests {
		return t.read, err
	}
	return t.expires(ctx, t.spent()-limit.Requests+1)
}

// tokens are those that a window holds.
type tokens struct {
	registry string
	stream   jetstream.Stream
	state    jetstream.StreamState
	held     time.Duration // how long each of them is
	read     time.Time     // when they were read, by the broker's clock
}

func (w *window) tokens(ctx context.Context, stream jetstream.Stream, age time.Duration) (tokens, error) {
	info, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return tokens{}, fmt.Errorf("reading the budget of %s: %w", w.registry, err)
	}
	return tokens{w.registry, stream, info.State, age + expiryDelay, info.TimeStamp}, nil
}

func (t tokens) spent() int { return int(t.state.Msgs) }

// expires returns when the n-th oldest token expires, counted from 1.
func (t tokens) expires(ctx context.Context, n int) (time.Time, error) {
	m, err := t.stream.GetMsg(ctx, nth(t.state, n))
	if errors.Is(err, jetstream.ErrMsgNotFound) { // it has just expired
		return t.read.Add(expiryDelay), nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the next slot of %s: %w", t.registry, err)
	}
	return m.Time.Add(t.held), nil
}

// nth returns the sequence of the n-th oldest message, counted from 1, in a stream with
// gaps for the tokens that were given back.
func nth(state jetstream.StreamState, n int) uint64 {
	sequence := state.FirstSeq + uint64(n) - 1
	for _, gap := range state.Deleted { // in order
		if gap <= sequence {
			sequence++
		}
	}
	return sequence
}

// slack returns how much longer than the registry's window W a token is held: a tenth of
// W, within the bounds minSlack and maxSlack.
//
// A token is dated t when the broker stores it, and its request is dated a when it
// reaches the registry. That is later, and by no more than the slack s, because a
// request that may come later is aborted (Token.Deadline): t <= a <= t+s. The broker holds at most
// L tokens and drops none before it is W+s old, so of any L+1 tokens the last, t2, is
// at least W+s after the first, t1. Their requests are then
//
//	a2 - a1 >= t2 - (t1+s) >= (W+s) - s = W
//
// apart, and so no L+1 requests fit into a window of length W, in whatever order they
// arrive. This uses only differences of the broker's clock. The age of a token is counted
// from before the broker dated it, which is on the safe side. The clocks of a cluster's
// nodes must agree, as with NTP: after a change of the leader, a token is dated by one and
// dropped by another. A lowered limit holds for tokens that are taken from then on. Those
// taken before stay in the window until they are W+s old.
func slack(window time.Duration) time.Duration {
	return min(max(window/10, minSlack), maxSlack)
}

const (
	// minSlack is enough for skopeo to start, which takes up to 200 ms if eight processes
	// start at once, and to ask for its manifest.
	minSlack = time.Second
	// maxSlack is more than any request takes, unless it is lost.
	maxSlack = 30 * time.Second
	// lateInARow is how many requests must be late before the slack is doubled. One may be
	// late because the machine is busy for a moment.
	lateInARow = 3
	// looseFor is how long it stays doubled.
	looseFor = 10 * time.Minute
)

// loose is a larger slack for tokens that are taken before a time. Requests need it over a slow
// link or on a busy machine. A process that does not know it yet is stricter than needed. The
// zero value applies to no token.
type loose struct {
	slack time.Duration
	until time.Time // by the broker's clock
}

// looseOf reads the larger slack from a stream's metadata.
func looseOf(metadata map[string]string) loose {
	slack, _ := time.ParseDuration(metadata[metaSlack])
	until, _ := time.Parse(time.RFC3339Nano, metadata[metaUntil])
	return loose{slack, until}
}

// in adds the larger slack to a stream's metadata.
func (l loose) in(metadata map[string]string) map[string]string {
	if l.slack > 0 {
		metadata[metaSlack], metadata[metaUntil] = l.slack.String(), l.until.Format(time.RFC3339Nano)
	}
	return metadata
}

// at returns the slack of a token that is taken now, and dated a moment later.
func (l loose) at(window time.Duration, now time.Time) time.Duration {
	if now.Add(l.slack).Before(l.until) {
		return max(slack(window), l.slack)
	}
	return slack(window)
}

// age returns how long tokens are held: as long as the last token with the larger slack
// needs.
func (l loose) age(window time.Duration, now time.Time) time.Duration {
	if now.Before(l.until.Add(window + l.slack)) {
		return window + max(slack(window), l.slack)
	}
	return window + slack(window)
}

// InTime notes that the token's request was sent in time.
func (t Token) InTime() {
	if t.window != nil {
		t.window.late.Store(0)
	}
}

// Late notes that the token's request was not sent in time. After several late requests in a
// row, tokens are held for longer, so that requests may take longer.
func (t Token) Late(ctx context.Context) error {
	if t.window == nil || t.window.late.Add(1) < lateInARow {
		return nil
	}
	t.window.late.Store(0)
	if err := t.window.loosen(ctx, t.store, t.slack); err != nil {
		return fmt.Errorf("holding the tokens of %s for longer: %w", t.window.registry, err)
	}
	return nil
}

// loosen doubles a slack that was too tight, unless another process has.
func (w *window) loosen(ctx context.Context, s *Store, tight time.Duration) error {
	w.adjusting.Lock()
	defer w.adjusting.Unlock()
	defer w.forget()
	stream, err := s.b.JS.Stream(ctx, w.name)
	if err != nil {
		return err
	}
	limit, origin := s.stated(w.registry, w.identity)
	c, now := stream.CachedInfo().Config, s.Now()
	if origin == None || tight >= maxSlack || looseOf(c.Metadata).at(limit.Window, now) > tight {
		return nil
	}
	wider := loose{min(2*tight, maxSlack), now.Add(looseFor)}
	c.Metadata = wider.in(maps.Clone(c.Metadata))
	s.log.Warn("requests take long to be sent, so tokens are held for longer", "registry", w.registry, "slack", wider.slack)
	_, err = s.b.JS.UpdateStream(ctx, w.config(c, limit, now))
	return err
}
