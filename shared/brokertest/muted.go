package brokertest

import (
	"io"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
)

// Way is a way to a server. While it is muted, the answers of the server are lost. While it is slow, each
// 32 KiB of them take a tenth of a second.
type Way struct {
	Muted  atomic.Bool
	Slow   atomic.Bool
	server *Server
	url    string
}

// NewWay returns a way to the server.
func (s *Server) NewWay(t testing.TB) *Way {
	t.Helper()
	to, err := url.Parse(s.URL())
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	w := &Way{server: s, url: "nats://" + listener.Addr().String()}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to.Host)
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() { _, _ = io.Copy(server, client); _ = server.Close() }()
			go func() { _, _ = io.Copy(answers{client, w}, server); _ = client.Close() }()
		}
	}()
	return w
}

// Config is the configuration of a process that uses the way.
func (w *Way) Config() broker.Config {
	c := w.server.Config()
	c.URL = w.url
	return c
}

// answers passes on what the server answers.
type answers struct {
	client io.Writer
	way    *Way
}

// Write implements io.Writer.
func (a answers) Write(data []byte) (int, error) {
	if a.way.Muted.Load() {
		return len(data), nil
	}
	if a.way.Slow.Load() {
		time.Sleep(100 * time.Millisecond)
	}
	return a.client.Write(data)
}
