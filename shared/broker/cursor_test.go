package broker_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestAnew: a reader of a stream that was created again reads it from the beginning, even if it has more
// messages by then than the old one had.
func TestAnew(t *testing.T) {
	b := brokertest.Embedded(t)
	config := jetstream.StreamConfig{Name: "anew", Subjects: []string{"anew.*"}, AllowDirect: true, Storage: jetstream.MemoryStorage}
	create := func(messages int) {
		_, err := b.JS.CreateStream(t.Context(), config)
		require.NoError(t, err)
		for range messages {
			_, err := b.JS.Publish(t.Context(), "anew.x", nil)
			require.NoError(t, err)
		}
	}
	var c broker.Cursor
	reads := func() (anew bool, messages int) {
		c.Compared = time.Now().Add(-time.Minute)
		anew, err := b.Anew(t.Context(), "anew", &c)
		require.NoError(t, err)
		c.After, err = b.Changes(t.Context(), "anew", "anew.*", c.After, func(*jetstream.RawStreamMsg) error { messages++; return nil })
		require.NoError(t, err)
		return anew, messages
	}
	create(3)
	for _, now := range []int{3, 0} {
		anew, messages := reads()
		require.False(t, anew)
		require.Equal(t, now, messages)
	}
	for _, messages := range []int{2, 5} {
		require.NoError(t, b.JS.DeleteStream(t.Context(), "anew"))
		create(messages)
		anew, read := reads()
		require.True(t, anew)
		require.Equal(t, messages, read)
	}
}
