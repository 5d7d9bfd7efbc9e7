package broker_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
)

const (
	// tooOld is a release that loses the first plan of a stream.
	tooOld = "2.14.1"
	// unsynced is new enough, but in a power cut it loses messages that it has acknowledged.
	unsynced = "2.14.4"
)

func TestTooOld(t *testing.T) {
	t.Parallel()
	s := brokertest.StartRelease(t, tooOld)
	err := fails(t, s.Config())
	require.ErrorIs(t, err, broker.ErrTooOld)
	require.EqualError(t, err, "the broker is too old: server release ("+strings.TrimPrefix(s.URL(), "nats://")+
		") runs nats-server 2.14.1, which loses plans and failures: upgrade it to 2.14.4 or newer (to survive power cuts, 2.15.2 or newer)")
}

func TestWarnsOfPowerCuts(t *testing.T) {
	t.Parallel()
	open := func(c broker.Config) string {
		var log bytes.Buffer
		b, err := broker.Open(t.Context(), c, broker.Options{Client: t.Name(), Log: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		b.Close()
		return log.String()
	}
	said := open(brokertest.StartRelease(t, unsynced).Config())
	require.Equal(t, 1, strings.Count(said, "power cut"), said)
	require.Contains(t, said, "version="+unsynced)
	require.Empty(t, open(brokertest.Start(t).Config()))
}

// TestOneOfManyIsTooOld: each server of a cluster must be new enough, not only the one with the
// connection.
func TestOneOfManyIsTooOld(t *testing.T) {
	t.Parallel()
	c := brokertest.StartCluster(t)
	brokertest.Open(t, c.Config()).Close()
	old := c.Join(tooOld)
	for name, url := range map[string]string{"announced": c.Nodes[0].URL(), "configured": c.Nodes[0].URL() + "," + old.URL()} {
		t.Run(name, func(t *testing.T) {
			// The other servers know it only a moment after it is ready.
			var err error
			for deadline := time.Now().Add(patience); err == nil && time.Now().Before(deadline); {
				var b *broker.Broker
				b, err = broker.Open(t.Context(), broker.Config{URL: url, Replicas: 3}, broker.Options{Client: t.Name(), Log: slog.New(slog.DiscardHandler)})
				if err == nil {
					b.Close()
				}
			}
			require.ErrorIs(t, err, broker.ErrTooOld)
			require.ErrorContains(t, err, "server release (")
		})
	}
}

// TestBecomesTooOld: Keep returns an error if a server is replaced by an older one.
func TestBecomesTooOld(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	b := brokertest.Open(t, s.Config())
	ended := make(chan error, 1)
	go func() { ended <- b.Keep(t.Context()) }()
	s.BecomeRelease(tooOld)
	err := <-ended
	require.ErrorIs(t, err, broker.ErrTooOld)
	require.ErrorContains(t, err, "nats-server "+tooOld)
}
