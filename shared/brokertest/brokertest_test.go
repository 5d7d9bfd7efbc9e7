package brokertest_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/subject"
)

func TestServerKeepsItsPortAndItsStore(t *testing.T) {
	s := brokertest.Start(t)
	url := s.URL()
	b := brokertest.Open(t, s.Config())
	m := nats.NewMsg(subject.NewAddress("default", "r", "quay.io", "1").Under(subject.Chunk))
	sequence, err := b.Publish(t.Context(), m)
	require.NoError(t, err)

	s.Restart()

	require.Equal(t, url, s.URL())
	require.Eventually(t, b.Conn.IsConnected, 10*time.Second, 10*time.Millisecond)
	got, err := b.Stream.GetMsg(t.Context(), sequence)
	require.NoError(t, err)
	require.Equal(t, m.Subject, got.Subject)
}

func TestEmbeddedBrokersAreApart(t *testing.T) {
	one, two := brokertest.Embedded(t), brokertest.Embedded(t)
	_, err := one.Publish(t.Context(), nats.NewMsg(subject.NewAddress("default", "r", "quay.io", "1").Under(subject.Chunk)))
	require.NoError(t, err)
	info, err := two.Stream.Info(t.Context())
	require.NoError(t, err)
	require.Zero(t, info.State.Msgs)
}
