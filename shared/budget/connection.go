package budget

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/semaphore"
)

// connection paces the requests of a line that this process sends over HTTP/2. It may have
// several connections, and uses no more than one of them is allowed.
type connection struct {
	registry string
	turn     *semaphore.Weighted // of one request at a time
	next     time.Time           // when the next request is due if they are evenly spaced, by the local clock
}

func (s *Store) connection(line line) *connection {
	key := line.key()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.connections[key]
	if c == nil {
		c = &connection{registry: line.registry, turn: semaphore.NewWeighted(1)}
		s.connections[key] = c
	}
	return c
}

// wait waits until the next request may be sent. It returns a *SpentError if that is too late.
func (c *connection) wait(ctx context.Context, s *Store, rate Rate) error {
	if c.turn.Acquire(ctx, 1) != nil {
		return context.Cause(ctx)
	}
	defer c.turn.Release(1)
	now := s.clock.local()
	if wait := c.next.Add(-rate.lead()).Sub(now); wait > maxWait {
		return &SpentError{Registry: c.registry, Slot: s.clock.broker(now.Add(wait)), Reason: fmt.Sprintf("more than %s are waiting", asLimit(rate.Rate))}
	} else if wait > 0 {
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
	// If this request is sent late, the next one does not follow sooner.
	c.next = latest(c.next, s.clock.local()).Add(rate.interval())
	return nil
}
