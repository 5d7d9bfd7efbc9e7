package broker_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestReplaced: a reader of a stream that was created again reads it from the beginning, even if it has more
// messages by then than the old one had.
func TestReplaced(t *testing.T) {
	b := brokertest.Embedded(t)
	config := jetstream.StreamConfig{Name: "replaced", Subjects: []string{"replaced.*"}, AllowDirect: true, Storage: jetstream.MemoryStorage}
	create := func(messages int) {
		_, err := b.JS.CreateStream(t.Context(), config)
		require.NoError(t, err)
		for range messages {
			_, err := b.JS.Publish(t.Context(), "replaced.x", nil)
			require.NoError(t, err)
		}
	}
	var c broker.Cursor
	reads := func() (replaced bool, messages int) {
		c.Compared = time.Now().Add(-time.Minute)
		replaced, err := b.Replaced(t.Context(), "replaced", &c)
		require.NoError(t, err)
		c.After, err = b.Changes(t.Context(), "replaced", "replaced.*", c.After, func(*jetstream.RawStreamMsg) error { messages++; return nil })
		require.NoError(t, err)
		return replaced, messages
	}
	create(3)
	for _, now := range []int{3, 0} {
		replaced, messages := reads()
		require.False(t, replaced)
		require.Equal(t, now, messages)
	}
	for _, messages := range []int{2, 5} {
		require.NoError(t, b.JS.DeleteStream(t.Context(), "replaced"))
		create(messages)
		replaced, read := reads()
		require.True(t, replaced)
		require.Equal(t, messages, read)
	}
}
