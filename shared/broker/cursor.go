package broker

import (
	"context"
	"fmt"
	"time"
)

// compareEvery is how often Replaced asks the broker for a cursor.
const compareEvery = 30 * time.Second

// Cursor is how far a process has read a stream. The zero Cursor is at its beginning.
type Cursor struct {
	After    uint64    // sequence of the last message that was read
	Compared time.Time // when Replaced was called first, or last asked the broker

	created time.Time // when the stream was created; zero: not known yet
}

// Replaced reports whether a stream is not the one that the cursor has read: it was deleted and created
// again, or restored from a backup. Its new messages may have sequences that the cursor has passed
// already. So Replaced moves the cursor back to the beginning, and what was read before does not count any
// more. It asks the broker every half minute, first half a minute after its first call.
func (b *Broker) Replaced(ctx context.Context, stream string, c *Cursor) (bool, error) {
	now := time.Now()
	if c.Compared.IsZero() {
		c.Compared = now
	}
	if now.Sub(c.Compared) < compareEvery {
		return false, nil
	}
	s, err := b.JS.Stream(ctx, stream)
	if err != nil {
		return false, fmt.Errorf("reading stream %s: %w", stream, err)
	}
	info := s.CachedInfo()
	replaced := c.After > info.State.LastSeq || !c.created.IsZero() && !c.created.Equal(info.Created)
	if replaced {
		c.After = 0
	}
	c.created, c.Compared = info.Created, now
	return replaced, nil
}
