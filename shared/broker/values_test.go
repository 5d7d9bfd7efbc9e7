package broker_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestValues: Values returns the same entries as Get returns for each key, and takes one request
// with an embedded broker. Foreign headers hide no entry.
func TestValues(t *testing.T) {
	for name, b := range map[string]*broker.Broker{
		"embedded": brokertest.Embedded(t), "another": brokertest.Open(t, brokertest.Start(t).Config()),
	} {
		t.Run(name, func(t *testing.T) {
			kv, err := b.Bucket(t.Context(), jetstream.KeyValueConfig{Bucket: "values"})
			require.NoError(t, err)
			none, err := b.Values(t.Context(), "values", []string{"a.1"})
			require.NoError(t, err)
			require.Empty(t, none)
			var keys []string
			for n := range 600 {
				keys = append(keys, fmt.Sprintf("a.%d", n))
				if n%2 == 0 {
					_, err := kv.PutString(t.Context(), keys[n], "old")
					require.NoError(t, err)
				}
			}
			_, err = kv.PutString(t.Context(), "a.4", "new")
			require.NoError(t, err)
			require.NoError(t, kv.Delete(t.Context(), "a.6"))

			same := func(most uint64) {
				t.Helper()
				before := b.Conn.Stats().OutMsgs
				values, err := b.Values(t.Context(), "values", keys)
				require.NoError(t, err)
				if b.Embedded() {
					require.LessOrEqual(t, b.Conn.Stats().OutMsgs-before, most)
				}
				for _, key := range keys {
					want, err := kv.Get(t.Context(), key)
					if err != nil {
						require.ErrorIs(t, err, jetstream.ErrKeyNotFound)
						require.NotContains(t, values, key)
						continue
					}
					got := values[key]
					require.NotNil(t, got, key)
					require.Equal(t, string(want.Value()), string(got.Value()))
					require.Equal(t, want.Revision(), got.Revision())
					require.Equal(t, want.Created(), got.Created())
					require.Equal(t, key, got.Key())
				}
				require.Len(t, values, 299)
			}
			same(2)

			m := nats.NewMsg("$KV.values.a.8")
			m.Header = nats.Header{jetstream.SequenceHeader: {"no number"}, "Status": {"204"}}
			m.Data = []byte("foreign")
			_, err = b.JS.PublishMsg(t.Context(), m)
			require.NoError(t, err)
			same(600 + 2)

			_, err = b.Values(t.Context(), "none", keys[:1])
			require.Error(t, err)
		})
	}
}

// TestBatchTakesLittleMemory: a batch with few entries takes little memory.
func TestBatchTakesLittleMemory(t *testing.T) {
	b := brokertest.Embedded(t)
	kv, err := b.Bucket(t.Context(), jetstream.KeyValueConfig{Bucket: "values"})
	require.NoError(t, err)
	_, err = kv.PutString(t.Context(), "a", "1")
	require.NoError(t, err)
	const batches = 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range batches {
		values, err := b.Values(t.Context(), "values", []string{"a"})
		require.NoError(t, err)
		require.Len(t, values, 1)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(batches*100<<10))
}
