package resolve_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// TestNewerThan: by the time that the registry lists, and otherwise since a tag was seen.
func TestNewerThan(t *testing.T) {
	o, internet := newOnline(t)
	for _, tag := range []string{"1", "2", "3"} {
		_, err := internet.Quay.PushImage("osism/tool", tag, registrytest.Image{Version: tag})
		require.NoError(t, err)
	}
	old := time.Now().Add(-100 * 24 * time.Hour)
	require.True(t, internet.Quay.SetTagTime("osism/tool", "1", old))
	wanted := message.Repository{Source: reference.MustRepository("quay.io/osism/tool")}
	wanted.Selection = selection.Selection{NewerThan: selection.Age(90 * 24 * time.Hour)}.Pointer()
	found, err := o.Resolve(t.Context(), wanted, resolve.Known{})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"2", "3"}, tagsOf(found.Images))

	plain, r, entry := newResolver(t)
	push(t, r, "1", "2", "3")
	entry.Selection = wanted.Selection
	found, err = plain.Resolve(t.Context(), entry, resolve.Known{Since: map[reference.Tag]time.Time{
		reference.MustTag("1"): old, reference.MustTag("2"): time.Now().Add(-time.Hour),
	}})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"2", "3"}, tagsOf(found.Images), "3 was never seen, so it is new")
	all := map[reference.Tag]time.Time{}
	for _, tag := range []string{"1", "2", "3"} {
		all[reference.MustTag(tag)] = old
	}
	found, err = plain.Resolve(t.Context(), entry, resolve.Known{Since: all})
	require.NoError(t, err)
	require.Empty(t, found.Images)
	require.Equal(t, "all of 3 tags are older than newer_than", found.Unselected)
}

// TestMinTags: too few tags are a failure, and what there is is mirrored.
func TestMinTags(t *testing.T) {
	u, r, entry := newResolver(t)
	push(t, r, "1", "2", "x")
	entry.Selection = selection.Selection{Include: []string{"[0-9]"}, MinTags: 3, Limit: 1}.Pointer()
	found, err := u.Resolve(t.Context(), entry, resolve.Known{})
	require.NoError(t, err)
	require.ErrorIs(t, found.Invalid, resolve.ErrFewTags)
	require.EqualError(t, found.Invalid, "list tags of "+entry.Source.String()+": too few tags: 2 match, expected at least 3 (min_tags)")
	require.Len(t, found.Images, 1)
	push(t, r, "3")
	found, err = u.Resolve(t.Context(), entry, resolve.Known{})
	require.NoError(t, err)
	require.NoError(t, found.Invalid)
}
