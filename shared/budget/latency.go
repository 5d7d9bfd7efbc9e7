package budget

import (
	"sync/atomic"
	"time"
)

// latencyPart is the part of the last answer in the latency of a registry.
const latencyPart = 4

// latency is the time that a registry takes to answer, the last answers counting most; 0 if it is
// not known.
type latency struct{ atomic.Int64 }

func (l *latency) add(took time.Duration) {
	last := l.Load()
	if last == 0 {
		l.Store(int64(took))
		return
	}
	l.Store(last + (int64(took)-last)/latencyPart)
}

// Took notes how long a registry took to answer a request.
func (s *Store) Took(registry string, took time.Duration) {
	known, ok := s.latencies.Load(registry)
	if !ok {
		known, _ = s.latencies.LoadOrStore(registry, new(latency))
	}
	known.(*latency).add(took)
}

// latency returns the time that a registry takes to answer.
func (s *Store) latency(registry string) time.Duration {
	known, ok := s.latencies.Load(registry)
	if !ok {
		return assumedLatency
	}
	return max(time.Duration(known.(*latency).Load()), time.Millisecond)
}
