package listing

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// fuzz requires that a parsed page is consistent.
func fuzz(f *testing.F, read func([]byte) (page, error)) {
	f.Fuzz(func(t *testing.T, body []byte) {
		found, err := read(body)
		if err != nil {
			require.Zero(t, found)
			return
		}
		require.LessOrEqual(t, len(found.tags), found.items)
		require.LessOrEqual(t, found.items, maxItems)
		for _, tag := range found.tags {
			require.NotEmpty(t, tag.name)
			require.True(t, tag.Name.IsZero(), "it is still to be parsed")
			for _, platform := range tag.Platforms {
				require.NotEmpty(t, platform.Name)
			}
			tag.WindowsOnly()
		}
	})
}

func FuzzQuay(f *testing.F) { fuzz(f, readQuay) }

func FuzzHub(f *testing.F) { fuzz(f, readHub) }

// FuzzHarbor requires that a parsed page is consistent. An artifact may have many tags.
func FuzzHarbor(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		found, err := readHarbor(body)
		if err != nil {
			require.Zero(t, found)
			return
		}
		require.LessOrEqual(t, found.items, maxItems)
		for _, tag := range found.tags {
			require.NotEmpty(t, tag.name)
			require.False(t, tag.Digest.IsZero())
		}
	})
}
