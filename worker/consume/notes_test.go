package consume

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/platform"
)

// TestForeignNotes: garbage in the buckets of notes drops no remainder and skips no image.
func TestForeignNotes(t *testing.T) {
	b := embedded(t)
	b.push(t, "1")
	c := b.consumer(t)
	left := b.chunk(message.Image{Tag: reference.MustTag("1")})
	digest := reference.DigestOf([]byte("an image"))
	wanted := platform.Wanted{Platforms: []string{"linux/amd64"}}
	for _, garbage := range []string{"", "~", "\xff\x1b", "99991231"} {
		b.send(t, "$KV."+resolvedBucket+"."+resolvedKey(name, left.Repositories[0]), []byte(garbage))
		superseded, err := c.worker.Notes.Superseded(t.Context(), left, left.Repositories[0])
		require.NoError(t, err)
		require.False(t, superseded)
		b.send(t, "$KV."+absentBucket+"."+absentKey(digest, wanted), []byte(garbage))
		absent, err := c.worker.Notes.Absent(t.Context(), digest, wanted)
		require.NoError(t, err)
		require.False(t, absent)
	}
	require.NoError(t, c.worker.Notes.Resolved(t.Context(), left, left.Repositories[0]))
	require.NoError(t, c.worker.Notes.NoteAbsent(t.Context(), digest, wanted))
	absent, err := c.worker.Notes.Absent(t.Context(), digest, wanted)
	require.NoError(t, err)
	require.True(t, absent)
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, func() run.Tally {
		tracker := b.plan(t, left)
		start(t, c)
		return over(t, tracker).Images
	}())
}
