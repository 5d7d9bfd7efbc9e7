package change

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
)

const name = "default"

var (
	source      = reference.MustRepository("quay.io/osism/tool")
	destination = reference.MustRepository("registry.example.com/osism/tool")
	first       = reference.DigestOf([]byte("first"))
	second      = reference.DigestOf([]byte("second"))
)

func tagged(tag string, from, to reference.Digest) Change {
	return Change{Source: source, Destination: destination, Tag: reference.MustTag(tag), From: from, To: to, Bytes: 10, Took: time.Second, At: time.Now().UTC().Truncate(time.Second)}
}

func TestChanges(t *testing.T) {
	b := brokertest.Embedded(t)
	s, err := Open(t.Context(), b)
	require.NoError(t, err)
	id, other := run.NewID(time.Now()), run.NewID(time.Now())
	none := reference.Digest{}
	require.NoError(t, s.Add(t.Context(), name, id, tagged("2", none, first), tagged("1", first, second), tagged("3", none, none)))
	require.NoError(t, s.Add(t.Context(), name, other, tagged("9", none, first)))

	all, more, err := s.List(t.Context(), name, id)
	require.NoError(t, err)
	require.Zero(t, more)
	require.Equal(t, []Change{tagged("1", first, second), tagged("2", none, first), tagged("3", none, none)}, all)
	require.Equal(t, []Kind{Moved, New, Vanished}, []Kind{all[0].Kind(), all[1].Kind(), all[2].Kind()})

	// The same message may come twice, and a tag may move twice.
	require.NoError(t, s.Add(t.Context(), name, id, tagged("2", first, second)))
	all, _, err = s.List(t.Context(), name, id)
	require.NoError(t, err)
	require.Len(t, all, 3)
	require.Equal(t, New, all[1].Kind())
	require.Equal(t, second, all[1].To)
	require.EqualValues(t, 20, all[1].Bytes)

	// A message of another program is not a change.
	for _, alien := range []string{"", "{}", `{"changes":[{}]}`, `{"changes":[{"repository":"../x","tag":"1"},{"repository":"quay.io/a/b","tag":"<script>"},1]}`, strings.Repeat("x", 1000)} {
		_, err := b.JS.Publish(t.Context(), subjectOf(name, id), []byte(alien))
		require.NoError(t, err)
	}
	again, _, err := s.List(t.Context(), name, id)
	require.NoError(t, err)
	require.Equal(t, all, again)

	_, _, err = s.List(t.Context(), name, ">")
	require.ErrorIs(t, err, run.ErrNotFound)

	// The stream is created again if it was deleted at the broker.
	require.NoError(t, b.JS.DeleteStream(t.Context(), stream))
	require.NoError(t, b.Ensure(t.Context()))
	all, _, err = s.List(t.Context(), name, id)
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestManyChanges(t *testing.T) {
	s, err := Open(t.Context(), brokertest.Embedded(t))
	require.NoError(t, err)
	id := run.NewID(time.Now())
	var changes []Change
	for n := range 2*perMessage + 1 {
		changes = append(changes, tagged(strings.Repeat("x", 100)+string(rune('a'+n%26))+strings.Repeat("y", n/26), reference.Digest{}, first))
	}
	require.NoError(t, s.Add(t.Context(), name, id, changes...))
	all, _, err := s.List(t.Context(), name, id)
	require.NoError(t, err)
	require.Len(t, all, len(changes))
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"changes":[{"repository":"quay.io/a/b","tag":"1","destination":"d/a/b","to":"` + first.String() + `"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, c := range parse(data) {
			if c.Source.IsZero() || c.Tag.IsZero() || strings.ContainsAny(c.Image(), "<>\"' ") {
				t.Fatalf("%q is no image", c.Image())
			}
		}
	})
}
