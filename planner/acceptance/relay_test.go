package acceptance

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// relay is a listener on loopback that forwards each connection to a target, and
// that can cut or stall all of them, as a network does.
type relay struct {
	listener net.Listener
	received atomic.Int64 // bytes from the target

	mu          sync.Mutex
	target      string
	connections map[net.Conn]bool
	flowing     chan struct{} // closed while bytes pass
}

func newRelay(t *testing.T, target string) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{listener: listener, target: target, connections: map[net.Conn]bool{}, flowing: make(chan struct{})}
	close(r.flowing)
	go r.accept()
	t.Cleanup(func() {
		_ = listener.Close()
		r.resume()
		r.cut()
	})
	return r
}

func (r *relay) host() string { return r.listener.Addr().String() }

// aim sends new connections to another target.
func (r *relay) aim(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
}

// cut resets every connection.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for connection := range r.connections {
		_ = connection.(*net.TCPConn).SetLinger(0) // RST instead of FIN
		_ = connection.Close()
	}
}

// stall lets no byte pass until resume. Connections stay open, and new ones are
// accepted.
func (r *relay) stall() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isFlowing() {
		r.flowing = make(chan struct{})
	}
}

func (r *relay) resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.isFlowing() {
		close(r.flowing)
	}
}

func (r *relay) isFlowing() bool {
	select {
	case <-r.flowing:
		return true
	default:
		return false
	}
}

func (r *relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		go r.forward(client)
	}
}

func (r *relay) forward(client net.Conn) {
	r.mu.Lock()
	target := r.target
	r.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil {
		_ = client.(*net.TCPConn).SetLinger(0) // as a closed port answers
		_ = client.Close()
		return
	}
	r.keep(client, server)
	defer r.forget(client, server)
	done := make(chan struct{}, 2)
	go func() { r.pump(server, client, nil); done <- struct{}{} }()
	go func() { r.pump(client, server, &r.received); done <- struct{}{} }()
	<-done
	_ = client.Close()
	_ = server.Close()
	<-done
}

func (r *relay) keep(connections ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range connections {
		r.connections[c] = true
	}
}

func (r *relay) forget(connections ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range connections {
		delete(r.connections, c)
	}
}

// pump copies until an end fails, and waits while the relay is stalled.
func (r *relay) pump(to io.Writer, from io.Reader, count *atomic.Int64) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		r.mu.Lock()
		flowing := r.flowing
		r.mu.Unlock()
		<-flowing
		if count != nil {
			count.Add(int64(n))
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
