package budget

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Mirror names share a budget by turns. Who is refused says so to all, and until when
// it will have come back; meanwhile the others take no more than an equal part of the
// limit each. A name that is alone has all of it, and it costs nothing.

const (
	// spreadPart is the part of a wait by which those who were refused at the same
	// moment come back apart, and maxSpread the most of it.
	spreadPart = 10
	maxSpread  = time.Minute
	// handOver is the time between a chunk's due time and its first request.
	handOver = 5 * time.Second
)

// Spread is the time within which those come back who were told to wait so long.
func Spread(wait time.Duration) time.Duration {
	return min(max(wait, 0)/spreadPart, maxSpread) + time.Second
}

// turn says that a mirror name was refused, and comes back by a time.
type turn struct {
	Registry string    `json:"registry"`
	Identity string    `json:"identity,omitempty"`
	Mirror   string    `json:"mirror"`
	Until    time.Time `json:"until"` // by the broker's clock
}

// claim says to all that the mirror name waits for its turn at a slot.
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
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if _, err := s.limits.Put(ctx, key, data); err != nil {
		return fmt.Errorf("waiting for the budget of %s: %w", w.registry, err)
	}
	return nil
}

// yield returns until when the mirror name has to leave what is free to others: they
// wait, and it has had its part.
func (w *window) yield(ctx context.Context, s *Store, mirror string, stream jetstream.Stream, limit Limit) (until time.Time, yields bool, err error) {
	others, until := s.waiting(w, mirror)
	if others == 0 {
		return time.Time{}, false, nil
	}
	subject := w.subject(mirror)
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return time.Time{}, false, fmt.Errorf("asking for the budget of %s: %w", w.registry, err)
	}
	part := (limit.Requests + others) / (others + 1) // rounded up
	return until, int(info.State.Subjects[subject]) >= part, nil
}

// waiting counts the other mirror names that wait for the budget, and tells when the
// last of them will have come back.
func (s *Store) waiting(w *window, mirror string) (others int, until time.Time) {
	now := s.Now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, t := range s.view.turns {
		if t.Registry == w.registry && t.Identity == w.identity && t.Mirror != mirror && now.Before(t.Until) {
			others++
			until = later(until, t.Until)
		}
	}
	return others, until
}
