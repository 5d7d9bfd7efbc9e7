package message

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
)

func TestRoundTrip(t *testing.T) {
	want := Chunk{
		Version: Version, Name: "default", Run: "r1", Number: 3, Registry: "quay.io", Republished: true,
		Repositories: []Repository{
			{Source: reference.MustRepository("quay.io/osism/osism"), Destination: reference.MustRepository("dest:5000/p/osism/osism"), Attempts: 2},
			{Source: reference.MustRepository("quay.io/osism/a"), Destination: reference.MustRepository("dest:5000/p/osism/a"), Tag: reference.MustTag("1.0"), Digest: reference.MustDigest("sha256:1111111111111111111111111111111111111111111111111111111111111111"), Images: []Image{
				{Tag: reference.MustTag("1.0"), Digest: reference.MustDigest("sha256:1111111111111111111111111111111111111111111111111111111111111111"), MediaType: "application/vnd.oci.image.index.v1+json", Attempts: 1},
				{Tag: reference.MustTag("latest"), Digest: reference.MustDigest("sha256:2222222222222222222222222222222222222222222222222222222222222222")},
			}},
		},
	}
	data, err := want.Encode()
	require.NoError(t, err)
	got, err := Decode(data)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, 3, got.Images())
}

func TestDecodeRefuses(t *testing.T) {
	for data, want := range map[string]error{
		fmt.Sprintf(`{"version":%d,"repositories":"in a form of the future"}`, Version+1): ErrNewer,
		`{"version":1,"name":"n","run":"r","registry":"q"} tail`:                          ErrMalformed,
		`{"version":1,"name":"n","run":"r"}`:                                              ErrMalformed,
		`{"version":1,"name":"n","run":"r","registry":3}`:                                 ErrMalformed,
		`{"version":0,"name":"n","run":"r","registry":"q"}`:                               ErrMalformed,
		`{"version":"1"}`: ErrMalformed,
		`null`:            ErrMalformed,
		`[]`:              ErrMalformed,
		"":                ErrMalformed,
		"\x00\xff":        ErrMalformed,
	} {
		_, err := Decode([]byte(data))
		require.ErrorIs(t, err, want, data)
	}
	_, err := Decode(fmt.Appendf(nil, `{"version":%d}`, Version+1))
	require.EqualError(t, err, fmt.Sprintf("the message is of a newer version: %d, this build understands %d", Version+1, Version))
}

// TestSplit: for chunks of many shapes, no image is lost or moved, no piece is too large, and no repository
// loses its images, because it would then stand for all tags.
func TestSplit(t *testing.T) {
	const limit = 2048
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		c := Chunk{Name: "default", Run: "r1", Number: 1 + random.IntN(9), Registry: "quay.io", Republished: random.IntN(2) == 0}
		for i := range random.IntN(12) {
			r := Repository{Source: reference.MustRepository(fmt.Sprintf("quay.io/a/%d", i)), Destination: reference.MustRepository(fmt.Sprintf("dest:5000/a/%d", i)), Attempts: random.IntN(3)}
			for j := range random.IntN(80) {
				r.Images = append(r.Images, Image{Tag: reference.MustTag(strings.Repeat("t", random.IntN(126)) + fmt.Sprint(j)), Digest: reference.DigestOf([]byte{byte(j)})})
			}
			c.Repositories = append(c.Repositories, r)
		}
		pieces, err := split(c, limit)
		require.NoError(t, err)
		var got []Repository
		for _, p := range pieces {
			data, err := p.Encode()
			require.NoError(t, err)
			require.Less(t, len(data), limit)
			got = append(got, p.Repositories...)
			p.Repositories = c.Repositories
			require.Equal(t, c, p)
		}
		require.Equal(t, flat(t, c.Repositories), flat(t, got))
	}
}

// flat lists every image, or repository without images, as JSON.
func flat(t *testing.T, repositories []Repository) []string {
	lines := []string{}
	for _, r := range repositories {
		images := r.Images
		r.Images = nil
		if len(images) == 0 {
			images = []Image{{}}
		}
		for _, i := range images {
			data, err := json.Marshal([]any{r, i})
			require.NoError(t, err)
			lines = append(lines, string(data))
		}
	}
	return lines
}

func TestSplitLeavesWhatFits(t *testing.T) {
	c := Chunk{Name: "default", Run: "r1", Number: 1, Registry: "quay.io", Repositories: make([]Repository, 1000)}
	pieces, err := Split(c)
	require.NoError(t, err)
	require.Equal(t, []Chunk{c}, pieces)
}

func TestSplitOfWhatCannotBe(t *testing.T) {
	c := Chunk{Name: "default", Run: "r1", Number: 7, Registry: "quay.io", Repositories: []Repository{
		{Source: reference.MustRepository("quay.io/a")}, {Source: reference.MustRepository("quay.io/a"), Images: []Image{{MediaType: strings.Repeat("a", MaxSize)}}},
	}}
	_, err := Split(c)
	require.ErrorIs(t, err, errTooLarge)
	require.EqualError(t, err, "chunk 7 of run r1: larger than a message may be")
}
