package command

import "sync"

// noted holds a state that changes while the page shows it. It is safe for concurrent use.
type noted[T any] struct {
	mu sync.Mutex
	at T
}

func (n *noted[T]) state() T {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.at
}

func (n *noted[T]) note(change func(*T)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(&n.at)
}
