package budget

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/osism/skopeo-worker/shared/broker"
)

const (
	// expiryDelay is the latest that a message goes after its age: nats-server looks
	// every 250 ms, by a clock that ticks every 100 ms (filestore.go, ats.go).
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
	adjusted  atomic.Pointer[adjustment]

	believing sync.Mutex
	believed  belief

	late atomic.Int32 // requests in a row that were not sent in time
}

// adjustment is what the stream was last seen to be.
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

// forget has the configuration checked before the next token.
func (w *window) forget() { w.adjusted.Store(nil) }

// adjust makes sure that the stream has the limit, or whatever else it has become
// in the meantime: who is behind must not undo what others have set. Messages above
// a lowered limit stay, for they were spent.
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
		if err := s.list(ctx, s.limits); err != nil {
			return nil, err
		}
		if now, origin := s.told(w.registry, w.identity); origin != None {
			limit = now
		}
		stream, changed, err := w.ensure(ctx, s, limit)
		if err != nil {
			return nil, fmt.Errorf("the budget of %s: %w", w.registry, err)
		}
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

// config is the stream's configuration; what else somebody has set stays.
func (w *window) config(c jetstream.StreamConfig, limit Limit, now time.Time) jetstream.StreamConfig {
	c.Name = w.name
	c.Description = "skopeo-worker: what was spent of the budget of " + w.registry
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

// codeStoreFailed is nats-server's JSStreamStoreFailedF: a message could not be
// stored, for whatever reason; the text tells which (ErrMaxMsgs in store.go).
const (
	codeStoreFailed = 10077
	textMaxMessages = "maximum messages exceeded"
)

// full reports whether the window has no token left.
func full(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeStoreFailed && strings.Contains(api.Description, textMaxMessages)
}

// slot returns when k tokens will be free: when the oldest messages that are in
// their way have gone.
func (w *window) slot(ctx context.Context, s *Store, limit Limit, k int) (time.Time, error) {
	a, err := w.adjust(ctx, s, limit)
	if err != nil {
		return time.Time{}, err
	}
	info, err := a.stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return time.Time{}, fmt.Errorf("asking for the budget of %s: %w", w.registry, err)
	}
	k = min(k, limit.Requests)
	n := k - (limit.Requests - int(info.State.Msgs))
	if n <= 0 {
		return info.TimeStamp, nil
	}
	m, err := a.stream.GetMsg(ctx, nth(info.State, n))
	if errors.Is(err, jetstream.ErrMsgNotFound) { // it has just gone
		return info.TimeStamp.Add(expiryDelay), nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("asking for the next slot of %s: %w", w.registry, err)
	}
	return m.Time.Add(a.loose.age(limit.Window, s.Now()) + expiryDelay), nil
}

// nth is the sequence of the n-th oldest message, counted from 1, in a stream with
// gaps where tokens were given back.
func nth(state jetstream.StreamState, n int) uint64 {
	sequence := state.FirstSeq + uint64(n) - 1
	for _, gap := range state.Deleted { // in order
		if gap <= sequence {
			sequence++
		}
	}
	return sequence
}

// belief is the last header that was compared with the window.
type belief struct {
	remaining int
	at        time.Time
}

const (
	// believeAgain is when a header that says the same as the last one is compared
	// with the window again.
	believeAgain = 10 * time.Second
	// believeTries bounds the attempts against workers that take tokens meanwhile;
	// the next header is another chance.
	believeTries = 3
)

// believe takes from the window what somebody else has spent, so that no more than
// remaining are left. What the fleet takes between the answer and now makes the
// difference smaller, never larger.
func (w *window) believe(ctx context.Context, s *Store, limit Limit, remaining int) error {
	// One at a time: another one is asking the same.
	if !w.believing.TryLock() {
		return nil
	}
	defer w.believing.Unlock()
	now := s.clock.local()
	if w.believed.remaining == remaining && now.Sub(w.believed.at) < believeAgain {
		return nil
	}
	a, err := w.adjust(ctx, s, limit)
	if err != nil {
		return err
	}
	for range believeTries {
		info, err := a.stream.Info(ctx)
		if err != nil {
			return fmt.Errorf("asking for the budget of %s: %w", w.registry, err)
		}
		missing := limit.Requests - int(info.State.Msgs) - remaining
		if missing > 0 {
			s.log.Info("other clients spend pulls of the same budget", "registry", w.registry, "spent", missing, "left", remaining)
			err = w.fill(ctx, s, info.State.LastSeq, missing)
		}
		if err == nil || full(err) { // full: others have taken what was left
			w.believed = belief{remaining: remaining, at: now}
			return nil
		}
		if !errors.Is(err, broker.ErrConflict) {
			return fmt.Errorf("taking from the budget of %s what others have spent: %w", w.registry, err)
		}
	}
	return nil
}

// fill takes n tokens at once, unless somebody has taken one since last.
func (w *window) fill(ctx context.Context, s *Store, last uint64, n int) error {
	for n > 0 {
		batch := make([]*nats.Msg, min(n, maxBatch))
		for i := range batch {
			batch[i] = nats.NewMsg(w.subject(""))
		}
		batch[0].Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(last, 10))
		var err error
		if len(batch) == 1 {
			_, err = s.b.JS.PublishMsg(ctx, batch[0])
		} else {
			_, err = jetstreamext.PublishMsgBatch(ctx, s.b.JS, batch)
		}
		if err != nil {
			return broker.Conflict(err)
		}
		last += uint64(len(batch))
		n -= len(batch)
	}
	return nil
}
