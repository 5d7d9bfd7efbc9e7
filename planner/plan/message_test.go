package plan

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/list"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// TestMessageCarriesTheSelection: a message carries the selection to the workers. If everything is
// selected, it has no selection.
func TestMessageCarriesTheSelection(t *testing.T) {
	all := list.Entry{Reference: reference.Reference{Repository: reference.MustRepository("quay.io/a/b")}, Destination: reference.MustRepository("127.0.0.1:5000/a/b")}
	some := all
	some.Selection = selection.Selection{
		Include: []string{"1"}, Exclude: []string{"2"}, Semver: ">=1", Limit: 3,
		Platforms: []string{"linux/amd64"}, WithoutAttestations: true, Referrers: true,
	}
	data, err := Chunk{Number: 1, Registry: "quay.io", Entries: []list.Entry{all, some}}.message("default", "r").Encode()
	require.NoError(t, err)
	c, err := message.Decode(data)
	require.NoError(t, err)
	require.Len(t, c.Repositories, 2)
	require.Nil(t, c.Repositories[0].Selection)
	require.Equal(t, some.Selection, *c.Repositories[1].Selection)
}
