package child

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrStalled says that a process was ended because its connections moved no byte.
var ErrStalled = errors.New("stalled")

// StalledError is an ErrStalled with what is known of the connections.
type StalledError struct {
	After  time.Duration // without a byte
	Unsent bool          // somebody does not take what was sent
}

func (e *StalledError) Error() string {
	return fmt.Sprintf("%v: no byte moved for %s", ErrStalled, e.After)
}
func (e *StalledError) Unwrap() error { return ErrStalled }

const (
	// maxLook is the time between two looks at what has moved.
	maxLook = 2 * time.Second
	// looks is how many looks at least see nothing before a process has stalled.
	looks = 8
)

// watch looks at what the process moves until it has ended, and ends it when that is
// nothing for too long. Silence is the time between looks and not that of a clock: where
// this process was suspended, the other one may have been, too.
func (p *Process) watch(ended <-chan struct{}) {
	if !seesBytes {
		return
	}
	every := maxLook
	if p.Stall > 0 {
		every = min(every, max(p.Stall/looks, time.Millisecond))
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var seen traffic
	var silence time.Duration
	for last := time.Now(); ; {
		select {
		case <-ended:
			return
		case <-ticker.C:
		}
		now := time.Now()
		passed := min(now.Sub(last), 2*every)
		last = now
		connections, err := connectionsOf(p.mark, p.Process.Pid, every/2)
		if err != nil {
			silence = 0 // nobody knows
			continue
		}
		received, sent := seen.add(connections)
		if sent > 0 && p.Moved != nil {
			p.Moved(sent)
		}
		if silence += passed; received+sent > 0 {
			silence = 0
		}
		if p.Stall > 0 && silence >= p.Stall {
			p.stop(stalled(p.Stall, connections))
			return
		}
	}
}

// connection is a TCP connection with the bytes it has moved since it was opened.
type connection struct {
	id             uint64 // never used twice
	received, sent int64  // what was sent counts when it is acknowledged
	unsent         bool   // something is not acknowledged
}

// traffic is what was last seen of each connection.
type traffic map[uint64]connection

// add returns how many bytes more have been moved. The last bytes of a connection that
// was closed meanwhile are not seen.
func (t *traffic) add(connections []connection) (received, sent int64) {
	if *t == nil {
		*t = traffic{}
	}
	for _, c := range connections {
		before := (*t)[c.id]
		received += c.received - before.received
		sent += c.sent - before.sent
		(*t)[c.id] = c
	}
	return received, sent
}

func stalled(after time.Duration, connections []connection) *StalledError {
	unsent := func(c connection) bool { return c.unsent }
	return &StalledError{After: after, Unsent: slices.ContainsFunc(connections, unsent)}
}
