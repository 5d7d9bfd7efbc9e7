package brokertest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/osism/skopeo-worker/shared/broker"
)

const (
	// nodes is the size of a cluster, the smallest that outlives one of its nodes.
	nodes = 3
	// look is how often the state of a cluster is polled.
	look = 20 * time.Millisecond
)

// Cluster is three nats-servers on loopback that share streams of three replicas.
type Cluster struct {
	t     testing.TB
	Nodes []*Server
}

// StartCluster starts a cluster, and waits until it has a leader. It is stopped when
// the test ends. Each function changes the options of the node with that index.
func StartCluster(t testing.TB, options ...func(node int, o *server.Options)) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	ports, routes := make([]int, nodes), make([]*url.URL, nodes)
	for i := range ports {
		ports[i] = FreePort(t) // the routes must be known before the nodes start
		routes[i] = routeOf(ports[i])
	}
	for i, port := range ports {
		s := &Server{t: t, options: defaults(t), cluster: c}
		s.options.ServerName = fmt.Sprintf("brokertest%d", i+1)
		s.options.Cluster = server.ClusterOpts{Name: "brokertest", Host: s.options.Host, Port: port}
		s.options.Routes = routes
		for _, change := range options {
			change(i, s.options)
		}
		s.start()
		t.Cleanup(s.Stop)
		c.Nodes = append(c.Nodes, s)
	}
	c.gather()
	return c
}

// gather waits until the cluster has a leader that knows the state of every running node. Until then, it
// refuses to create streams.
func (c *Cluster) gather() {
	c.t.Helper()
	c.until("the cluster does not gather", func() bool {
		running := 0
		for _, s := range c.Nodes {
			if s.server.Running() {
				running++
			}
		}
		return slices.ContainsFunc(c.Nodes, func(s *Server) bool {
			return s.server.JetStreamIsLeader() && len(s.server.JetStreamClusterPeers()) == running
		})
	})
}

// FreePort returns a port of 127.0.0.1 without a listener. It is below those that systems choose for
// connections (from 32768 on, on Linux), so that none takes it before a server listens, or while the
// server is restarted.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 10000 + rand.N(22000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

func routeOf(port int) *url.URL {
	return &url.URL{Scheme: "nats", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
}

// Config returns the configuration with which the broker is opened.
func (c *Cluster) Config() broker.Config {
	urls := make([]string, nodes)
	for i, s := range c.Nodes {
		urls[i] = s.URL()
	}
	return broker.Config{URL: strings.Join(urls, ","), Replicas: nodes}
}

// Leader waits until a stream has a leader, and returns its node.
func (c *Cluster) Leader(stream string) *Server {
	c.t.Helper()
	var leader *Server
	c.until("stream "+stream+" has no leader", func() bool {
		i := slices.IndexFunc(c.Nodes, func(s *Server) bool {
			return s.server.Running() && s.server.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream)
		})
		if i >= 0 {
			leader = c.Nodes[i]
		}
		return i >= 0
	})
	return leader
}

// StepDown makes another node the leader of a stream.
func (c *Cluster) StepDown(stream string) {
	c.t.Helper()
	before := c.Leader(stream)
	if err := before.server.JetStreamStepdownStream(server.DEFAULT_GLOBAL_ACCOUNT, stream); err != nil {
		c.t.Fatalf("stepping down: %v", err)
	}
	for c.Leader(stream) == before {
		time.Sleep(look)
	}
}

// Settle waits until every node has caught up with a stream.
func (c *Cluster) Settle(stream string) {
	c.t.Helper()
	c.until("not every node has caught up with "+stream, func() bool {
		return !slices.ContainsFunc(c.Nodes, func(s *Server) bool {
			return !s.server.JetStreamIsStreamCurrent(server.DEFAULT_GLOBAL_ACCOUNT, stream)
		})
	})
}

func (c *Cluster) until(failure string, is func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(ready); !is(); time.Sleep(look) {
		if time.Now().After(deadline) {
			c.t.Fatal(failure)
		}
	}
}
