package chunk

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// gone is a digest that nobody has.
var gone = "sha256:" + strings.Repeat("1", 64)

// TestEveryTag: with and without REFERRERS, a repository of which no tags are chosen
// arrives with all of them: those whose image is not there, and images that have the name
// of a companion, included.
func TestEveryTag(t *testing.T) {
	for name, s := range map[string]selection.Selection{"plain": {}, "referrers": withReferrers} {
		for api, options := range map[string][]registrytest.Option{"API": {registrytest.WithReferrersAPI(0)}, "": nil} {
			t.Run(name+api, func(t *testing.T) {
				b := newBenchBetween(t, registrytest.New(t, options...), registrytest.New(t))
				image := b.move(t, "1", "1")
				index := b.index(t, "2", "2")
				children, err := b.from.Children(repository, index)
				require.NoError(t, err)
				for _, digest := range []string{image, index, children[0].Digest.String(), gone} {
					_, err := b.from.PushSignature(repository, digest)
					require.NoError(t, err)
				}
				hex := image[len("sha256:"):]
				b.move(t, "sha256-"+strings.Repeat("2", 64), "an image")
				b.index(t, "3", "sha256-"+strings.Repeat("3", 64))
				b.move(t, "sha256-"+hex+".sbom", "an image")
				b.refer(t, image, sbom)

				tags, err := b.from.Tags(repository)
				require.NoError(t, err)
				require.Empty(t, b.do(t, b.selected("", s)).Left)
				require.Equal(t, len(tags), b.images.Total)
				require.Equal(t, len(tags), b.images.Copied+b.images.Tagged)
				b.mirrored(t, tags...)

				b.reset()
				require.Empty(t, b.do(t, b.selected("", s)).Left)
				require.Equal(t, run.Tally{Total: len(tags), Unchanged: len(tags)}, b.images)
				require.Zero(t, b.from.Pulls())
				require.Zero(t, b.to.Count(puts))
			})
		}
	}
}

// TestListOfReferrers: what the destination has of its own stays in the list, what is new
// at the source comes into it, and no night puts it again.
func TestListOfReferrers(t *testing.T) {
	b := newBench(t)
	image := b.move(t, "1", "1")
	tag := "sha256-" + image[len("sha256:"):]
	first := b.refer(t, image, sbom)
	require.Empty(t, b.do(t, b.selected("", withReferrers)).Left)
	b.mirrored(t, "1", tag)
	own, err := b.to.PushReferrer(destination, image, "a/own")
	require.NoError(t, err)

	quiet := func() {
		t.Helper()
		b.reset()
		require.Empty(t, b.do(t, b.selected("", withReferrers)).Left)
		require.Equal(t, run.Tally{Total: 2, Unchanged: 2}, b.images)
		require.Zero(t, b.from.Pulls())
		require.Zero(t, b.to.Count(puts))
	}
	listed := func() (digests []string) {
		t.Helper()
		require.NoError(t, b.to.Check(destination, tag))
		children, err := b.to.Children(destination, tag)
		require.NoError(t, err)
		for _, child := range children {
			digests = append(digests, child.Digest.String())
		}
		slices.Sort(digests)
		return digests
	}
	require.Empty(t, b.do(t, b.selected("", withReferrers)).Left)
	require.Equal(t, slices.Sorted(slices.Values([]string{first, own})), listed())
	quiet()

	second := b.refer(t, image, signature)
	require.Empty(t, b.do(t, b.selected("", withReferrers)).Left)
	require.Equal(t, slices.Sorted(slices.Values([]string{first, second, own})), listed())
	quiet()
}
