package charttest

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestServerOutlivesAPowerCut: what the chart's broker has acknowledged is on the disk.
func TestServerOutlivesAPowerCut(t *testing.T) {
	set := serverOptions(t)
	brokertest.PowerCut(t, func(t *testing.T, path string) *broker.Broker {
		s := brokertest.Start(t, func(o *server.Options) {
			host := o.Host
			*o = *set.Clone()
			o.Host, o.Port, o.HTTPPort, o.StoreDir = host, server.RANDOM_PORT, 0, path
			o.NoLog, o.NoSigs = true, true
		})
		c := s.Config()
		c.User, c.Password = set.Username, set.Password
		return brokertest.Open(t, c)
	})
}
