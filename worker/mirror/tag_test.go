package mirror_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestUnreadableAtTheDestination: a manifest that cannot be read counts as missing. If the destination
// cannot be read at all, that is an error.
func TestUnreadableAtTheDestination(t *testing.T) {
	looks := registrytest.Kinds(registrytest.KindManifestGet, registrytest.KindManifestHead)
	for name, fault := range map[string]registrytest.Fault{
		"nothing": {Status: http.StatusOK}, "a page": {Status: http.StatusOK, Body: "<html></html>"},
		"no manifest": {Status: http.StatusOK, Body: "{}"},
	} {
		for what, wanted := range map[string]platform.Wanted{"": {}, "platforms": {Platforms: []string{"linux/amd64"}}} {
			t.Run(name+what, func(t *testing.T) {
				p := newPair(t)
				digest, err := p.from.PushIndex(repository, "1", registrytest.MultiPlatform("1", "linux/amd64"))
				require.NoError(t, err)
				_, err = p.mirror(t, "1")
				require.NoError(t, err)
				fault.Match = registrytest.All(looks, registrytest.Ref("1"))
				p.to.Inject(fault)
				current, have, err := p.Current(t.Context(), p.target("1"), reference.MustDigest(digest), wanted)
				require.NoError(t, err)
				require.False(t, current)
				require.True(t, have.IsZero())

				fault.Match = nil
				p.to.Inject(fault)
				_, _, err = p.Current(t.Context(), p.target("1"), reference.MustDigest(digest), wanted)
				require.ErrorIs(t, err, registry.ErrPage)
			})
		}
	}
}
