package child

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrStalled means that a process was ended because its connections moved no byte.
var ErrStalled = errors.New("stalled")

// StalledError is an ErrStalled with details.
type StalledError struct {
	After  time.Duration // without a byte
	Unsent bool          // a peer does not acknowledge sent bytes
}

func (e *StalledError) Error() string {
	return fmt.Sprintf("%v: no byte moved for %s", ErrStalled, e.After)
}
func (e *StalledError) Unwrap() error { return ErrStalled }

const (
	// maxLook is the longest time between two looks at the connections.
	maxLook = 2 * time.Second
	// looks is how many looks in a row, at least, see no byte before a process has stalled.
	looks = 8
)

// watch looks at the connections of the process until it has ended, and ends it if it stalls.
// The silence is counted in looks and not by a clock: if this process was suspended, the other
// one may have been suspended, too.
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
			silence = 0 // unknown
			continue
		}
		received, sent := seen.add(connections)
		if sent > 0 && p.Moved != nil {
			p.Moved(sent)
		}
		if silence += passed; received+sent > 0 || p.Waits != nil && p.Waits() {
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
	id             uint64 // unique since boot
	received, sent int64  // sent bytes count once they are acknowledged
	unsent         bool   // some bytes are not acknowledged
}

// traffic is the last known state of each connection.
type traffic map[uint64]connection

// add returns how many bytes have moved since the last call. It misses the last bytes of a
// connection that was closed meanwhile.
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
