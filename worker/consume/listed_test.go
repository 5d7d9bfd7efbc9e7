package consume

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
)

// TestListed: the last number of each source is remembered, and garbage is ignored.
func TestListed(t *testing.T) {
	b := embedded(t)
	notes, err := OpenNotes(t.Context(), b.Broker, b.log)
	require.NoError(t, err)
	one, other := reference.MustRepository("quay.io/a/b"), reference.MustRepository("quay.io/a/c")
	for _, garbage := range []string{"", "{}", "~", `{"source":"quay.io/a/c","tags":9}`, `{"source":"quay.io/a/b","tags":-1}`} {
		b.send(t, "$KV."+listedBucket+"."+keyOf(one), []byte(garbage))
		last, err := notes.Counted(t.Context(), one)
		require.NoError(t, err)
		require.Zero(t, last, garbage)
	}
	for _, step := range []struct {
		tags  int
		whole bool
		want  int
	}{{5, false, 5}, {7, true, 7}, {7, true, 7}, {9, true, 9}, {8, false, 9}, {8, true, 8}, {10, false, 10}} {
		last, err := notes.Counted(t.Context(), one)
		require.NoError(t, err)
		require.NoError(t, notes.NoteCounted(t.Context(), one, last, step.tags, step.whole))
		last, err = notes.Counted(t.Context(), one)
		require.NoError(t, err)
		require.Equal(t, step.want, last.Tags)
		require.False(t, last.At.IsZero())
	}
	last, err := notes.Counted(t.Context(), other)
	require.NoError(t, err)
	require.Zero(t, last)
}
