package registrytest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Relay is a way to a registry that can be frozen: then it goes on to accept connections
// and keeps those there are, and not a byte passes, as where a machine has gone silent or
// a process is suspended.
type Relay struct {
	listener net.Listener
	target   func() string

	mu     sync.Mutex
	gate   chan struct{} // closed: open
	conns  map[net.Conn]struct{}
	closed bool
}

// NewRelay starts a relay to a registry, for as long as the test takes.
func NewRelay(t testing.TB, to *Registry) *Relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("start a relay: %v", err)
	}
	r := &Relay{listener: listener, target: to.Host, gate: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	close(r.gate)
	go r.accept()
	t.Cleanup(r.close)
	return r
}

// Host is the relay's "127.0.0.1:port".
func (r *Relay) Host() string { return r.listener.Addr().String() }

// Freeze stops every byte, until Thaw.
func (r *Relay) Freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate = make(chan struct{})
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
			_ = near.Close()
			continue
		}
		if !r.keep(near, far) {
			return
		}
		go r.pass(far, near)
		go r.pass(near, far)
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
func (r *Relay) pass(to, from net.Conn) {
	_, _ = io.Copy(gated{r, to}, from)
	r.wait()
	_, _ = to.Close(), from.Close()
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
}

func (g gated) Write(p []byte) (int, error) {
	g.relay.wait()
	return g.Writer.Write(p)
}
