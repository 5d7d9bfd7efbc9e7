package platform_test

import (
	"os/exec"
	"testing"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
	"github.com/stretchr/testify/require"
)

// TestMirroredSubset: distribution, which refuses sparse indexes, takes what
// Subset makes of OCI indexes and of Docker lists, and skopeo copies from it.
func TestMirroredSubset(t *testing.T) {
	index := registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64/v8", "linux/s390x")
	list := registrytest.Index{Docker: true, Images: index.Images}
	for name, test := range map[string]struct {
		index    registrytest.Index
		children int
		preserve bool // whether skopeo 1.9.3 copies the index as a whole
	}{
		"OCI":    {index, 4, false},
		"Docker": {list, 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst, next := registrytest.New(t), registrytest.New(t), registrytest.New(t)
			_, err := src.PushIndex("app", "1", test.index)
			require.NoError(t, err)
			insecure := []string{src.Host(), dst.Host(), next.Host()}
			client := registry.NewClient(registry.Options{Insecure: insecure})
			runner := skopeo.Runner{Insecure: insecure}
			source, destination := src.Host()+"/app", dst.Host()+"/app"
			wanted := platform.Wanted{Platforms: []string{"linux/amd64", "linux/arm64"}}

			whole, err := client.Get(t.Context(), reference.MustRepository(source), reference.MustTag("1"))
			require.NoError(t, err)
			subset, children, err := wanted.Subset(whole)
			require.NoError(t, err)
			require.Len(t, children, test.children)
			require.ErrorIs(t, client.Put(t.Context(), reference.MustRepository(destination), reference.MustTag("1"), subset), registry.ErrRejected, "it would be sparse")
			for _, child := range children {
				require.NoError(t, runner.Copy(t.Context(), reference.MustRepository(source), child.Digest, reference.MustRepository(destination)))
			}
			require.NoError(t, client.Put(t.Context(), reference.MustRepository(destination), reference.MustTag("1"), subset))
			require.NoError(t, dst.Check("app", "1"))

			src.ResetRequests()
			there, err := client.Get(t.Context(), reference.MustRepository(destination), reference.MustTag("1"))
			require.NoError(t, err)
			require.Equal(t, subset, there)
			require.True(t, wanted.Current(there, whole.Digest))
			require.Empty(t, src.Requests())

			run(t, "copy", "--src-tls-verify=false", "--override-os=linux", "--override-arch=arm64",
				"docker://"+destination+":1", "dir:"+t.TempDir())
			if test.preserve {
				run(t, "copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false",
					"docker://"+destination+":1", "docker://"+next.Host()+"/app:1")
				copied, err := next.Digest("app", "1")
				require.NoError(t, err)
				require.Equal(t, subset.Digest.String(), copied)
			}
		})
	}
}

func run(t *testing.T, arguments ...string) {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "skopeo", arguments...).CombinedOutput()
	require.NoError(t, err, string(output))
}
