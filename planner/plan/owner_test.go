package plan

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
)

// TestOwnerThatCannotBeRead: if the owner is unreadable, only force takes the name.
func TestOwnerThatCannotBeRead(t *testing.T) {
	b := brokertest.Embedded(t)
	owner := Owner{Source: "https://example.com/list.yml", Destination: "dest:5000"}
	require.NoError(t, Claim(t.Context(), b, "other", owner, false)) // which makes the bucket
	for _, garbage := range []string{"", "\x1b[2J", "[]", "{}"} {
		m := nats.NewMsg("$KV." + nameBucket + "." + name)
		m.Data = []byte(garbage)
		_, err := b.Publish(t.Context(), m)
		require.NoError(t, err)
		err = Claim(t.Context(), b, name, owner, false)
		require.ErrorIs(t, err, errNameTaken)
		require.ErrorContains(t, err, "--force")
		require.NotContains(t, err.Error(), "\x1b")
		require.NoError(t, Claim(t.Context(), b, name, owner, true))
		require.NoError(t, Claim(t.Context(), b, name, owner, false))
	}
}

// TestCheckOwner: a command that changes nothing is also refused for another owner.
func TestCheckOwner(t *testing.T) {
	b := brokertest.Embedded(t)
	owner := Owner{Source: "https://example.com/list.yml", Destination: "dest:5000"}
	require.NoError(t, Check(t.Context(), b, name, owner), "nothing has claimed it")
	require.NoError(t, Claim(t.Context(), b, name, owner, false))
	require.NoError(t, Check(t.Context(), b, name, owner))
	require.NoError(t, Check(t.Context(), b, "other", Owner{}))
	for _, another := range []Owner{{Source: "https://example.com/other.yml", Destination: owner.Destination}, {Source: owner.Source, Destination: "dest:5000/prefix"}} {
		err := Check(t.Context(), b, name, another)
		require.ErrorIs(t, err, errNameTaken)
		require.ErrorContains(t, err, "MIRROR_NAME="+name+" mirrors https://example.com/list.yml to dest:5000")
	}
}
