package consume

import (
	"sync"

	"github.com/nats-io/nats.go/jetstream"
)

// load is the work of a consumer, as far as it knows.
type load struct {
	mu      sync.Mutex
	busy    int    // messages that it works off
	pending uint64 // messages that it could get, when it got the last one
	drained chan struct{}
}

func newLoad() *load { return &load{drained: make(chan struct{}, 1)} }

// begin records that a message was received. end records that it was worked off.
func (l *load) begin(m jetstream.Msg) (end func()) {
	meta, err := m.Metadata()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy++
	if err == nil {
		l.pending = meta.NumPending
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.busy--; l.busy > 0 || l.pending > 0 {
			return
		}
		select {
		case l.drained <- struct{}{}:
		default: // the last one was not received yet
		}
	}
}

// Drained receives a value when the consumer has worked off all messages that it could get: a run
// may be over. Several such moments may be one value.
func (c *Consumer) Drained() <-chan struct{} { return c.load.drained }
