package skopeo

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// TestOneImageAtATime: a process gets the next image when it has put the one before it, because its
// requests for blobs do not show the image.
func TestOneImageAtATime(t *testing.T) {
	i := newServing(true)
	for _, repository := range []string{"a", "b"} {
		raw := []byte(`{"schemaVersion":2,"layers":[{"digest":"` + reference.DigestOf([]byte(repository)).String() + `"}]}`)
		_, err := i.add(t.Context(), Image{
			Source: reference.MustRepository("source.example/" + repository), Destination: reference.MustRepository("destination.example/" + repository),
			Manifest: registry.Manifest{Digest: reference.DigestOf(raw), Raw: raw},
		})
		require.NoError(t, err)
	}
	ask := func(method, side string, image int) int {
		m := i.images[image].Manifest
		answered := httptest.NewRecorder()
		i.answer(answered, httptest.NewRequest(method, "/v2/"+side+"/manifests/"+m.Digest.String(), strings.NewReader(string(m.Raw))))
		return answered.Code
	}
	require.Equal(t, http.StatusOK, ask(http.MethodGet, fromRepository, 0))
	require.Equal(t, http.StatusNotFound, ask(http.MethodGet, fromRepository, 1))
	require.Equal(t, http.StatusOK, ask(http.MethodGet, fromRepository, 0), "again")
	require.Equal(t, http.StatusCreated, ask(http.MethodPut, toRepository, 0))
	require.Equal(t, http.StatusOK, ask(http.MethodGet, fromRepository, 1))
}
