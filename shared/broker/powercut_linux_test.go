package broker_test

import (
	"testing"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestEmbeddedOutlivesAPowerCut: everything that the embedded broker has acknowledged is on the
// disk.
func TestEmbeddedOutlivesAPowerCut(t *testing.T) {
	t.Parallel()
	brokertest.PowerCut(t, 1, func(t *testing.T, paths []string) *broker.Broker {
		return brokertest.Open(t, broker.Config{DataDir: paths[0], Replicas: 1})
	})
}
