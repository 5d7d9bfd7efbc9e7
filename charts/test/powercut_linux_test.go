package charttest

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestServersOutliveAPowerCut: what the chart's broker has acknowledged is on its disks.
func TestServersOutliveAPowerCut(t *testing.T) {
	one := serverOptions(t)
	three := serverOptions(t, "nats: {server: {replicas: 3}}")
	t.Run("one server", func(t *testing.T) {
		t.Parallel()
		brokertest.PowerCut(t, 1, func(t *testing.T, paths []string) *broker.Broker {
			s := brokertest.Start(t, func(o *server.Options) {
				host, port := o.Host, o.Port
				*o = *one.Clone()
				o.Host, o.Port, o.HTTPPort, o.StoreDir = host, port, 0, paths[0]
				o.NoLog, o.NoSigs = true, true
			})
			c := s.Config()
			c.User, c.Password = one.Username, one.Password
			return brokertest.Open(t, c)
		})
	})
	t.Run("three servers", func(t *testing.T) {
		t.Parallel()
		brokertest.PowerCut(t, 3, func(t *testing.T, paths []string) *broker.Broker {
			c := brokertest.StartCluster(t, func(node int, o *server.Options) {
				o.StoreDir, o.SyncAlways, o.SyncInterval = paths[node], three.SyncAlways, three.SyncInterval
				o.JetStreamMaxMemory, o.JetStreamMaxStore = three.JetStreamMaxMemory, three.JetStreamMaxStore
			})
			return brokertest.Open(t, c.Config())
		})
	})
}
