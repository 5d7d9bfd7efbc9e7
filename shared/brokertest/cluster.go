package brokertest

import (
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/osism/skopeo-worker/shared/broker"
)

// tick is the pause between two looks at a cluster that is forming.
const tick = 20 * time.Millisecond

// Cluster is three nats-servers with JetStream that listen on loopback, and keep
// streams on all of them.
type Cluster struct {
	t       testing.TB
	Servers []*Server
}

// StartCluster starts a cluster and waits until it has elected a leader. It is stopped
// when the test ends.
func StartCluster(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	names := []string{"one", "two", "three"}
	var routes []*url.URL
	for range names {
		routes = append(routes, &url.URL{Scheme: "nats", Host: freeAddress(t)})
	}
	for i, name := range names {
		_, port, err := net.SplitHostPort(routes[i].Host)
		if err != nil {
			t.Fatal(err)
		}
		number, err := net.LookupPort("tcp", port)
		if err != nil {
			t.Fatal(err)
		}
		c.Servers = append(c.Servers, Start(t, func(o *server.Options) {
			o.ServerName, o.Routes = name, routes
			o.Cluster = server.ClusterOpts{Name: "brokertest", Host: "127.0.0.1", Port: number}
		}))
	}
	c.await(func(s *server.Server) bool { return s.JetStreamIsCurrent() })
	return c
}

// freeAddress is one that nobody listens on now.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// await waits until it holds for every server, and one of them leads.
func (c *Cluster) await(holds func(*server.Server) bool) {
	c.t.Helper()
	for end := time.Now().Add(ready); time.Now().Before(end); time.Sleep(tick) {
		all, led := true, false
		for _, s := range c.Servers {
			all = all && holds(s.server)
			led = led || s.server.JetStreamIsLeader()
		}
		if all && led {
			return
		}
	}
	c.t.Fatal("the cluster does not form")
}

// Config returns the configuration with which the broker is opened.
func (c *Cluster) Config() broker.Config {
	var urls []string
	for _, s := range c.Servers {
		urls = append(urls, s.URL())
	}
	return broker.Config{URL: strings.Join(urls, ","), Replicas: len(c.Servers)}
}

// Leader returns the server that leads a stream, and nil while none does.
func (c *Cluster) Leader(stream string) *Server {
	for _, s := range c.Servers {
		if s.server.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream) {
			return s
		}
	}
	return nil
}

// StepDown makes another server the leader of a stream.
func (c *Cluster) StepDown(stream string) {
	c.t.Helper()
	if leader := c.Leader(stream); leader != nil {
		if err := leader.server.JetStreamStepdownStream(server.DEFAULT_GLOBAL_ACCOUNT, stream); err != nil {
			c.t.Fatal(err)
		}
	}
}

// Settle waits until every server has caught up with a stream.
func (c *Cluster) Settle(stream string) {
	c.t.Helper()
	c.await(func(s *server.Server) bool { return s.JetStreamIsStreamCurrent(server.DEFAULT_GLOBAL_ACCOUNT, stream) })
}
