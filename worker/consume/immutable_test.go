package consume

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
)

// TestHeld: the notes about a destination are merged, and garbage is ignored.
func TestHeld(t *testing.T) {
	b := embedded(t)
	notes, err := OpenNotes(t.Context(), b.Broker, b.log)
	require.NoError(t, err)
	to, other := reference.MustRepository("registry.example.com/a"), reference.MustRepository("registry.example.com/b")
	from := reference.MustRepository("quay.io/a")
	one, two := reference.DigestOf([]byte("one")), reference.DigestOf([]byte("two"))
	tag := reference.MustTag
	for _, garbage := range []string{"", "{}", "~", `{"destination":"registry.example.com/b","tags":{"1":{"s":"` + one.String() + `"}}}`,
		`{"destination":"registry.example.com/a","tags":{"1":null,"":{"s":"` + one.String() + `"},"2":{}}}`} {
		b.send(t, "$KV."+heldBucket+"."+keyOf(to), []byte(garbage))
		held, err := notes.Held(t.Context(), to)
		require.NoError(t, err)
		require.Empty(t, held, garbage)
	}
	require.NoError(t, notes.NoteHeld(t.Context(), to, map[reference.Tag]compare.Held{tag("1"): {From: from, Source: one, At: one}}))
	require.NoError(t, notes.NoteHeld(t.Context(), to, map[reference.Tag]compare.Held{tag("2"): {From: from, Source: one, At: two}}))
	held, err := notes.Held(t.Context(), to)
	require.NoError(t, err)
	require.Equal(t, map[reference.Tag]compare.Held{tag("1"): {From: from, Source: one, At: one, Fresh: true}, tag("2"): {From: from, Source: one, At: two, Fresh: true}}, held)
	held, err = notes.Held(t.Context(), other)
	require.NoError(t, err)
	require.Empty(t, held)

	another := reference.MustRepository("quay.io/b")
	require.NoError(t, notes.NoteHeld(t.Context(), to, map[reference.Tag]compare.Held{tag("3"): {From: another, Source: one, At: one}}))
	held, err = notes.Held(t.Context(), to)
	require.NoError(t, err)
	require.Equal(t, map[reference.Tag]compare.Held{tag("3"): {From: another, Source: one, At: one, Fresh: true}}, held, "the destination has another source now")

	old := fmt.Sprintf(`{"destination":"%s","from":"%s","tags":{"1":{"s":"%s","t":%d}}}`, to, from, one, time.Now().Add(-heldFor-time.Hour).Unix())
	b.send(t, "$KV."+heldBucket+"."+keyOf(to), []byte(old))
	held, err = notes.Held(t.Context(), to)
	require.NoError(t, err)
	require.Equal(t, map[reference.Tag]compare.Held{tag("1"): {From: from, Source: one, At: one}}, held)
}

// TestHeldIsBounded: if a message cannot hold all tags, the oldest are left out.
func TestHeldIsBounded(t *testing.T) {
	note := heldTags{Destination: reference.MustRepository("registry.example.com/a"), Tags: map[reference.Tag]*heldTag{}}
	digest := reference.DigestOf([]byte("one"))
	const many = 10_000
	for i := range many {
		note.Tags[reference.MustTag(fmt.Sprint(i))] = &heldTag{Source: digest, Since: int64(i)}
	}
	data, err := fit(note, note.Tags, olderHeld)
	require.NoError(t, err)
	require.LessOrEqual(t, len(data), message.MaxSize)
	require.Greater(t, len(note.Tags), 1000)
	require.Contains(t, note.Tags, reference.MustTag(fmt.Sprint(many-1)))
	require.NotContains(t, note.Tags, reference.MustTag("0"))
}
