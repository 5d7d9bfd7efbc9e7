package bench

import (
	"fmt"
	"path"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// catalogue is what a source holds: each tag in each repository.
type catalogue struct {
	name         string
	repositories []string
	tags         []string
	onDisk       bool // too large for memory
	index        func(repository, tag string) registrytest.Index
}

// small are indexes of two platforms with two layers each, of a few kilobytes; one of them
// is in every image.
func small(repositories, tags int) catalogue {
	return catalogue{
		fmt.Sprintf("%d repositories × %d tags × 2 platforms, small", repositories, tags),
		registrytest.Numbered("bench/app%d", repositories), registrytest.Numbered("1.%d", tags), false,
		func(repository, tag string) registrytest.Index {
			var index registrytest.Index
			for _, platform := range []string{"linux/amd64", "linux/arm64"} {
				index.Images = append(index.Images, registrytest.Image{Version: tag, Platform: platform, Layers: []registrytest.Layer{
					{Seed: "base " + platform, Size: 16 << 10},
					{Seed: repository + tag + platform, Size: 4 << 10},
				}})
			}
			return index
		},
	}
}

// large are images of three layers: of 64 MB, which two repositories share, of 16 MB, which
// the tags of a repository share, and of 4 MB.
func large(repositories, tags int) catalogue {
	const mb = 1 << 20
	return catalogue{
		fmt.Sprintf("%d repositories × %d tags, layers of 4 to 64 MB", repositories, tags),
		registrytest.Numbered("bench/large%d", repositories), registrytest.Numbered("1.%d", tags), true,
		func(repository, tag string) registrytest.Index {
			shared := repository[len(repository)-1] / 2
			return registrytest.Index{Images: []registrytest.Image{{Version: tag, Layers: []registrytest.Layer{
				{Seed: fmt.Sprint("base ", shared), Size: 64 * mb},
				{Seed: repository, Size: 16 * mb},
				{Seed: repository + tag, Size: 4 * mb},
			}}}}
		},
	}
}

// push stores these tags of every repository in a registry, under the names that at returns.
func (c catalogue) push(b *testing.B, r *registrytest.Registry, at func(string) string, tags ...string) {
	b.Helper()
	for _, repository := range c.repositories {
		for _, tag := range tags {
			_, err := r.PushIndex(at(repository), tag, c.index(repository, tag))
			require.NoError(b, err)
		}
	}
}

// compare returns how many tags of the source the destination does not have, and how many
// have another digest there.
func (c catalogue) compare(b *testing.B, w *world, at func(string) string) (missing, changed int) {
	b.Helper()
	for _, repository := range c.repositories {
		tags, err := w.source.Tags(repository)
		require.NoError(b, err)
		for _, tag := range tags {
			want, err := w.source.Digest(repository, tag)
			require.NoError(b, err)
			switch got, err := w.destination.Digest(at(repository), tag); {
			case err != nil:
				missing++
			case got != want:
				changed++
			}
		}
	}
	return missing, changed
}

// Each returns the repository at the destination of one at the source.
func atSource(repository string) string  { return repository }
func underPath(repository string) string { return "mirror/" + repository }
func underName(repository string) string { return "mirror/" + path.Base(repository) }
