package failure

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// TestSelectionIsKept: a republish mirrors the same selection as before.
func TestSelectionIsKept(t *testing.T) {
	chosen := selection.Selection{Include: []string{"1"}, Limit: 5, Platforms: []string{"linux/amd64"}, WithoutAttestations: true, Referrers: true}
	c := message.Chunk{Name: "default", Run: "r", Number: 3, Registry: "quay.io"}
	r := message.Repository{Source: reference.MustRepository("quay.io/a/b"), Destination: reference.MustRepository("127.0.0.1:5000/m/a/b"), Selection: &chosen}

	again, err := chunk("default", "r2", Of(c, r, nil, "no listing"))
	require.NoError(t, err)
	require.Equal(t, []message.Repository{r}, again.Repositories)

	again, err = chunk("default", "r2", Of(c, r, []message.Image{{Attempts: 5}}, "no listing, the last of five times"))
	require.NoError(t, err)
	require.Equal(t, []message.Repository{r}, again.Repositories)

	again, err = chunk("default", "r2", Of(c, r, []message.Image{{Tag: reference.MustTag("1.0")}}, "no copy"))
	require.NoError(t, err)
	r.Tag = reference.MustTag("1.0")
	contents := chosen.Contents()
	r.Selection = &contents
	require.Equal(t, []message.Repository{r}, again.Repositories)

	r.Selection = &selection.Selection{Limit: 5}
	again, err = chunk("default", "r2", Of(c, r, []message.Image{{Tag: reference.MustTag("1.0")}}, "no copy"))
	require.NoError(t, err)
	require.Nil(t, again.Repositories[0].Selection)
}

// TestSelectionsOfOneRepository: a repository with two entries in the list can fail twice.
func TestSelectionsOfOneRepository(t *testing.T) {
	image := func(destination string, s *selection.Selection) Image {
		return Image{Source: "quay.io/a/b", Destination: destination, Selection: s}
	}
	var pages []*page
	for _, i := range []Image{
		image("d/a/b", nil),
		image("d/a/b", &selection.Selection{Semver: ">=1"}),
		image("d/other", nil),
		image("d/a/b", &selection.Selection{Semver: ">=1", Platforms: []string{"linux/amd64"}}), // in place of the second
	} {
		pages = put(pages, nil, i, maxPage)
	}
	require.Len(t, pages, 1)
	require.Equal(t, []Image{
		image("d/a/b", nil),
		image("d/other", nil),
		image("d/a/b", &selection.Selection{Semver: ">=1", Platforms: []string{"linux/amd64"}}),
	}, pages[0].record.Images)
}
