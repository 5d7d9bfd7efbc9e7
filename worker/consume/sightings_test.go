package consume

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// TestSightings: of two notes, the first one counts, except if the source has moved a digest back.
// Garbage is ignored.
func TestSightings(t *testing.T) {
	b := embedded(t)
	notes, err := OpenNotes(t.Context(), b.Broker, b.log)
	require.NoError(t, err)
	source, other := reference.MustRepository("quay.io/a/b"), reference.MustRepository("quay.io/a/c")
	tag, one, two := reference.MustTag("1"), reference.DigestOf([]byte("one")), reference.DigestOf([]byte("two"))
	start := time.Now().UTC().Truncate(time.Second)
	for _, garbage := range []string{"", "~", "{}", `{"source":"quay.io/a/c","tags":{"1":{"d":"` + one.String() + `"}}}`, `{"source":"quay.io/a/b","tags":{"1":{}}}`} {
		b.send(t, "$KV."+sightedBucket+"."+shardOf(source, tag), []byte(garbage))
		found, err := notes.Sighted(t.Context(), source)
		require.NoError(t, err)
		require.Empty(t, found, garbage)
	}
	for _, step := range []struct {
		seen resolve.Sighting
		want time.Time
	}{
		{resolve.Sighting{Digest: one, Since: start}, start},
		{resolve.Sighting{Digest: one, Since: start.Add(time.Hour)}, start},
		{resolve.Sighting{Digest: one, Since: start.Add(-time.Hour)}, start.Add(-time.Hour)},
		{resolve.Sighting{Digest: one, Since: start.Add(time.Hour), ByListing: true}, start.Add(time.Hour)},
		{resolve.Sighting{Digest: two, Since: start.Add(2 * time.Hour)}, start.Add(2 * time.Hour)},
		{resolve.Sighting{Digest: one, Since: start.Add(3 * time.Hour)}, start.Add(3 * time.Hour)},
	} {
		require.NoError(t, notes.NoteSightings(t.Context(), source, map[reference.Tag]resolve.Sighting{tag: step.seen}))
		found, err := notes.Sighted(t.Context(), source)
		require.NoError(t, err)
		require.Equal(t, map[reference.Tag]resolve.Sighting{tag: {Digest: step.seen.Digest, Since: step.want}}, found)
	}
	found, err := notes.Sighted(t.Context(), other)
	require.NoError(t, err)
	require.Empty(t, found)
}

// TestSightingsOfManyTags: all tags are remembered, in however many deliveries they come.
func TestSightingsOfManyTags(t *testing.T) {
	b := embedded(t)
	notes, err := OpenNotes(t.Context(), b.Broker, b.log)
	require.NoError(t, err)
	source, digest := reference.MustRepository("quay.io/a/b"), reference.DigestOf([]byte("one"))
	const many = 20_000
	for night := range 2 {
		tags := map[reference.Tag]resolve.Sighting{}
		for i := range many / 2 {
			tags[reference.MustTag(fmt.Sprintf("v1.0.%d-%d", i, night))] = resolve.Sighting{Digest: digest, Since: time.Unix(int64(night), 0).UTC()}
		}
		require.NoError(t, notes.NoteSightings(t.Context(), source, tags))
	}
	found, err := notes.Sighted(t.Context(), source)
	require.NoError(t, err)
	require.Len(t, found, many)
}
