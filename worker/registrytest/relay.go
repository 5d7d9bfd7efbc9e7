package registrytest

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Relay forwards connections on loopback, and fails as a network does. A frozen relay
// accepts connections and keeps those it has, but no byte passes, as if the machine behind
// it had gone silent or the process were suspended.
type Relay struct {
	listener net.Listener
	target   func() string
	received atomic.Int64

	mu     sync.Mutex
	gate   chan struct{} // closed: open
	conns  map[net.Conn]struct{}
	closed bool
}

// NewRelay starts a relay until the end of the test. target returns the address of each new
// connection.
func NewRelay(t testing.TB, target func() string) *Relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("start a relay: %v", err)
	}
	r := &Relay{listener: listener, target: target, gate: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	close(r.gate)
	go r.accept()
	t.Cleanup(r.close)
	return r
}

// Host is the relay's "127.0.0.1:port".
func (r *Relay) Host() string { return r.listener.Addr().String() }

// Received is how many bytes have come from the target.
func (r *Relay) Received() int64 { return r.received.Load() }

// Cut resets every connection.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		resetConn(c)
	}
}

// Freeze stops every byte, until Thaw.
func (r *Relay) Freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.gate:
		r.gate = make(chan struct{})
	default: // frozen already
	}
}

// Thaw lets bytes pass again after Freeze.
func (r *Relay) Thaw() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.gate:
	default:
		close(r.gate)
	}
}

func (r *Relay) close() {
	_ = r.listener.Close()
	r.Thaw()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for c := range r.conns {
		_ = c.Close()
	}
}

func (r *Relay) accept() {
	for {
		near, err := r.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", r.target())
		if err != nil {
			resetConn(near) // as a closed port answers
			continue
		}
		if !r.keep(near, far) {
			return
		}
		go r.pass(far, near, nil)
		go r.pass(near, far, &r.received)
	}
}

// keep notes connections, so that close ends them; it closes them where it has been.
func (r *Relay) keep(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		if r.closed {
			_ = c.Close()
		} else {
			r.conns[c] = struct{}{}
		}
	}
	return !r.closed
}

// pass moves bytes while the gate is open, and the end of the connection, too.
func (r *Relay) pass(to, from net.Conn, count *atomic.Int64) {
	_, _ = io.Copy(gated{r, to, count}, from)
	r.wait()
	_, _ = to.Close(), from.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, to)
}

func (r *Relay) wait() {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	<-gate
}

type gated struct {
	relay *Relay
	io.Writer
	count *atomic.Int64 // nil: the bytes are not counted
}

func (g gated) Write(p []byte) (int, error) {
	g.relay.wait()
	if g.count != nil {
		g.count.Add(int64(len(p)))
	}
	return g.Writer.Write(p)
}
