package registry_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestDeleteTag: a tag is deleted, but neither its manifest nor another tag of it.
func TestDeleteTag(t *testing.T) {
	r := registrytest.New(t)
	digest, err := r.PushImage("team/app", "1", registrytest.Image{})
	require.NoError(t, err)
	require.NoError(t, r.Tag("team/app", "2", digest))
	client := insecure(r, nil).Writing()
	repository := reference.MustRepository(r.Host() + "/team/app")
	require.NoError(t, client.DeleteTag(t.Context(), repository, reference.MustTag("1")))
	tags, err := r.Tags("team/app")
	require.NoError(t, err)
	require.Equal(t, []string{"2"}, tags)
	require.ErrorIs(t, client.DeleteTag(t.Context(), repository, reference.MustTag("1")), registry.ErrNotFound)
	for _, status := range []int{http.StatusBadRequest, http.StatusMethodNotAllowed} {
		remove := r.Inject(registrytest.Fault{Match: func(q registrytest.Request) bool { return q.Method == http.MethodDelete }, Status: status})
		require.ErrorIs(t, client.DeleteTag(t.Context(), repository, reference.MustTag("2")), registry.ErrUndeletable)
		remove()
	}
}
