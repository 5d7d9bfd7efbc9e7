package message

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzDecode: a decoded chunk is encoded as the same chunk, and its pieces together are the chunk.
func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Decode(data)
		if err != nil {
			require.Zero(t, c)
			return
		}
		for _, r := range c.Repositories {
			require.Equal(t, c.Registry, r.Source.Registry())
			require.False(t, r.Destination.IsZero())
		}
		encoded, err := c.Encode()
		require.NoError(t, err)
		again, err := Decode(encoded)
		require.NoError(t, err)
		c.Version = Version
		same, err := again.Encode()
		require.NoError(t, err)
		require.JSONEq(t, string(encoded), string(same))

		pieces, err := split(c, max(512, len(encoded)/3))
		if err != nil {
			require.ErrorIs(t, err, errTooLarge)
			return
		}
		images := 0
		for _, piece := range pieces {
			images += piece.Images()
		}
		require.Equal(t, c.Images(), images)
	})
}
