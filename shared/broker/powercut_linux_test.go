package broker_test

import (
	"testing"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestEmbeddedOutlivesAPowerCut: what the embedded broker has acknowledged is on the disk.
func TestEmbeddedOutlivesAPowerCut(t *testing.T) {
	t.Parallel()
	brokertest.PowerCut(t, func(t *testing.T, path string) *broker.Broker {
		return brokertest.Open(t, broker.Config{DataDir: path, Replicas: 1})
	})
}
