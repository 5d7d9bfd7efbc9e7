package budget

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
)

// Quota is a registry's limit, and the number of pulls that are left, as the registry states them.
type Quota struct {
	Limit     Limit
	Remaining int
}

// Docker Hub's headers, on HEAD and GET of a manifest
// (docs.docker.com/docker-hub/usage/pulls, "View pull rate and limit").
const (
	headerLimit     = "ratelimit-limit"     // 100;w=21600
	headerRemaining = "ratelimit-remaining" // 76;w=21600
)

var quotaLimit = regexp.MustCompile(`^\s*(\d+)\s*;\s*w=(\d+)\s*$`)

// ParseQuota reads Docker Hub's headers. It returns false if they are absent, which means
// unlimited, or are not valid. If ratelimit-remaining is missing, all pulls are left.
func ParseQuota(h http.Header) (Quota, bool) {
	match := quotaLimit.FindStringSubmatch(h.Get(headerLimit))
	if match == nil {
		return Quota{}, false
	}
	requests, errRequests := strconv.Atoi(match[1])
	seconds, errSeconds := strconv.Atoi(match[2])
	if errRequests != nil || errSeconds != nil || seconds > int(maxWindow/time.Second) {
		return Quota{}, false
	}
	q := Quota{Limit: Limit{Requests: requests, Window: time.Duration(seconds) * time.Second}, Remaining: requests}
	if !q.Limit.valid() {
		return Quota{}, false
	}
	left, _, _ := strings.Cut(h.Get(headerRemaining), ";")
	if remaining, err := strconv.Atoi(strings.TrimSpace(left)); err == nil {
		q.Remaining = min(max(remaining, 0), requests)
	}
	return q, true
}

// Learn applies a registry's headers. Their limit counts if none is set. If less is left
// than the budget has, other clients spend from it, too, and the difference is taken from
// the budget. If nothing is new, it sends no request.
func (s *Store) Learn(ctx context.Context, registry, identity string, q Quota) error {
	key := keyLearned + "." + token(registry) + "." + token(identity)
	s.mu.RLock()
	known, ok := s.view.stated[key]
	s.mu.RUnlock()
	if !ok || known.Limit != q.Limit || s.Now().Sub(known.at) > renewLearned {
		if err := s.storeLimit(ctx, key, stated{Registry: registry, Identity: identity, Limit: q.Limit}); err != nil {
			return err
		}
	}
	if limit, origin := s.stated(registry, identity); origin != None {
		return s.window(registry, identity).believe(ctx, s, limit, q.Remaining)
	}
	return nil
}

// belief is the last header that was compared with a window.
type belief struct {
	remaining int
	at        time.Time
}

const (
	// After believeAgain, a header is compared with the window even if it equals the last one.
	believeAgain = 10 * time.Second
	// believeTries bounds the attempts if workers take tokens meanwhile. The next header is
	// compared again.
	believeTries = 3
)

// believe takes the tokens that other clients have spent from the window, so that no more than
// remaining tokens are left. Tokens that the fleet takes between the answer and now make
// the difference smaller, never larger.
func (w *window) believe(ctx context.Context, s *Store, limit Limit, remaining int) error {
	// One at a time is enough: the others have the same header.
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
			return fmt.Errorf("reading the budget of %s: %w", w.registry, err)
		}
		missing := limit.Requests - int(info.State.Msgs) - remaining
		if missing > 0 {
			s.log.Info("other clients spend pulls of the same budget", "registry", w.registry, "spent", missing, "left", remaining)
			err = w.fill(ctx, s, info.State.LastSeq, missing)
		}
		if err == nil || full(err) { // full: others have taken the rest
			w.believed = belief{remaining: remaining, at: now}
			return nil
		}
		if !errors.Is(err, broker.ErrConflict) {
			return fmt.Errorf("taking pulls of other clients from the budget of %s: %w", w.registry, err)
		}
	}
	return nil
}

// fill takes n tokens at once, unless one was taken after the sequence last.
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
			_, err = s.b.PublishBatch(ctx, batch)
		}
		if err != nil {
			return broker.Conflict(err)
		}
		last += uint64(len(batch))
		n -= len(batch)
	}
	return nil
}
