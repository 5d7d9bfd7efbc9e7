package registry

import (
	"sync"
	"time"
)

// rememberFor is how long a habit of a registry is believed: a worker lives for months,
// and an upgrade can change it.
const rememberFor = time.Hour

// memory keeps which registries have a habit.
type memory struct {
	now func() time.Time

	mu    sync.Mutex
	known map[string]time.Time // by host, when it was found out
}

func newMemory(now func() time.Time) *memory {
	return &memory{now: now, known: make(map[string]time.Time)}
}

func (m *memory) isKnown(host string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	since, known := m.known[host]
	return known && m.now().Sub(since) < rememberFor
}

func (m *memory) note(host string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[host] = m.now()
}
