package registry_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestPingOnce: how a registry authenticates is asked once, not once a repository.
func TestPingOnce(t *testing.T) {
	r := registrytest.New(t, registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true}))
	client := registry.NewClient(registry.Options{Insecure: []string{r.Host()}})
	for i := range 3 {
		repository := fmt.Sprintf("team/app%d", i)
		_, err := r.PushImage(repository, "1", registrytest.Image{})
		require.NoError(t, err)
		_, err = client.Head(t.Context(), reference.MustRepository(r.Host()+"/"+repository), reference.MustTag("1"))
		require.NoError(t, err)
	}
	require.Equal(t, 1, r.Count(registrytest.Kinds(registrytest.KindPing)))
	require.Equal(t, 3, r.Count(registrytest.Kinds(registrytest.KindToken)))
}
