package budget

import (
	"sync/atomic"
	"time"
)

// clock tells the broker's time: what the broker last said, and what has passed
// since by this process's monotonic clock. Steps of the local clock, and its
// being wrong, make no difference.
type clock struct {
	local func() time.Time
	at    atomic.Pointer[reading]
}

type reading struct{ broker, local time.Time }

// set takes what the broker has just said. The answer was on its way, so the
// broker is ahead of what we take it for, by at most one round trip.
func (c *clock) set(broker time.Time) { c.at.Store(&reading{broker: broker, local: c.local()}) }

func (c *clock) now() time.Time { return c.broker(c.local()) }

// broker is the broker's time at a local one.
func (c *clock) broker(local time.Time) time.Time {
	at := c.at.Load()
	return at.broker.Add(local.Sub(at.local))
}
