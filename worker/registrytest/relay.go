package registrytest

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Relay forwards connections on loopback, and fails as a network does. A frozen relay accepts
// connections and keeps existing ones, but passes no byte, as if the machine behind it had
// become unreachable or the process were suspended.
type Relay struct {
	listener net.Listener
	target   func() string
	received atomic.Int64
	sent     atomic.Int64

	mu     sync.Mutex
	trip   time.Duration
	rate   int           // bytes a second
	gate   chan struct{} // closed: open
	conns  map[net.Conn]struct{}
	closed bool
}

// NewRelay starts a relay until the end of the test. target returns the address for each new
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

// Host returns the relay's "127.0.0.1:port".
func (r *Relay) Host() string { return r.listener.Addr().String() }

// Received returns how many bytes have come from the target.
func (r *Relay) Received() int64 { return r.received.Load() }

// Sent is how many bytes have gone to the target.
func (r *Relay) Sent() int64 { return r.sent.Load() }

// SetRoundTrip gives new connections the latency of a network with this round trip: every
// byte takes half of it, in either direction, and the handshake of TCP takes one. Those of
// TLS and HTTP take theirs, because they are made of bytes.
func (r *Relay) SetRoundTrip(trip time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trip = trip
}

// SetRate lets through so many bytes a second in each direction of each new connection.
func (r *Relay) SetRate(bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rate = bytes
}

// Cut resets all connections.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		resetConn(c)
	}
}

// Freeze stops all bytes until Thaw.
func (r *Relay) Freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.gate:
		r.gate = make(chan struct{})
	default: // frozen already
	}
}

// Thaw ends Freeze.
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
		r.mu.Lock()
		way := distance{r.trip / 2, r.rate, time.Now().Add(r.trip)}
		r.mu.Unlock()
		go r.pass(gated{r, far, &r.sent}, near, way)
		go r.pass(gated{r, near, &r.received}, far, way)
	}
}

// keep registers connections, so that close ends them. It closes them if the relay is closed.
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

// pass forwards bytes, and the end of the connection, while the gate is open.
func (r *Relay) pass(to gated, from net.Conn, way distance) {
	if way.delay > 0 || way.rate > 0 {
		way.carry(to, from)
	} else {
		_, _ = io.Copy(to, from)
	}
	r.wait()
	_, _ = to.Close(), from.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, to.Conn)
}

func (r *Relay) wait() {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	<-gate
}

// gated is a connection that takes bytes while the gate is open, and counts them.
type gated struct {
	relay *Relay
	net.Conn
	count *atomic.Int64
}

func (g gated) Write(p []byte) (int, error) {
	g.relay.wait()
	g.count.Add(int64(len(p)))
	return g.Conn.Write(p)
}
