package broker_test

import (
	"errors"
	"strconv"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestUpdate: no increment of many writers is lost, also after the key was deleted.
func TestUpdate(t *testing.T) {
	b := brokertest.Embedded(t)
	kv, err := b.Bucket(t.Context(), jetstream.KeyValueConfig{Bucket: "numbers"})
	require.NoError(t, err)
	const writers, each = 8, 20
	increment := func(last jetstream.KeyValueEntry) ([]byte, error) {
		n := 0
		if last != nil {
			n, _ = strconv.Atoi(string(last.Value()))
		}
		return []byte(strconv.Itoa(n + 1)), nil
	}
	for range 2 {
		var running sync.WaitGroup
		for range writers {
			running.Go(func() {
				for range each {
					if _, err := broker.Update(t.Context(), kv, "n", increment); err != nil {
						t.Error(err)
					}
				}
			})
		}
		running.Wait()
		last, err := kv.Get(t.Context(), "n")
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(writers*each), string(last.Value()))
		require.NoError(t, kv.Delete(t.Context(), "n"))
	}

	revision, err := broker.Update(t.Context(), kv, "n", func(jetstream.KeyValueEntry) ([]byte, error) { return nil, nil })
	require.NoError(t, err)
	require.Zero(t, revision)
	refusal := errors.New("no")
	_, err = broker.Update(t.Context(), kv, "n", func(jetstream.KeyValueEntry) ([]byte, error) { return []byte("1"), refusal })
	require.ErrorIs(t, err, refusal)
	_, err = kv.Get(t.Context(), "n")
	require.ErrorIs(t, err, jetstream.ErrKeyNotFound)
}
