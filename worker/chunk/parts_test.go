package chunk

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestPartsLoseNothing: each image of any jobs is in one part, with its digest, its entry and the other
// images of its job.
func TestPartsLoseNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var jobs []*compare.Job
		expected := map[string]string{}
		for e := range 1 + random.IntN(5) {
			entry := message.Repository{Source: reference.MustRepository(fmt.Sprintf("quay.io/a/%d", e%3)), Destination: reference.MustRepository(fmt.Sprintf("mirror.example.com/a/%d", e%3)), Selection: &selection.Selection{Limit: e}}
			for d := range random.IntN(2 * partCopies) {
				j := &compare.Job{Entry: entry, Digest: reference.DigestOf(fmt.Appendf(nil, "%d-%d", e, d))}
				for i := range 1 + random.IntN(3) {
					image := message.Image{Tag: reference.MustTag(fmt.Sprintf("%d-%d-%d", e, d, i)), Digest: j.Digest}
					expected[image.Tag.String()] = j.Digest.String()
					if i == 2 {
						j.Current = append(j.Current, image)
					} else {
						j.Images = append(j.Images, image)
					}
				}
				jobs = append(jobs, j)
			}
		}
		got, home := map[string]string{}, map[string]int{}
		split := parts(jobs)
		require.Len(t, split, (len(jobs)+partCopies-1)/partCopies)
		for i, part := range split {
			for _, r := range part {
				require.NotEmpty(t, r.Images)
				for _, image := range r.Images {
					require.Empty(t, got[image.Tag.String()], "%s is in two parts", image.Tag)
					got[image.Tag.String()] = image.Digest.String()
					require.Equal(t, fmt.Sprint(r.Selection.Limit), image.Tag.String()[:1], "it has left its entry")
					if before, ok := home[image.Digest.String()]; ok {
						require.Equal(t, before, i, "a job was cut")
					}
					home[image.Digest.String()] = i
				}
			}
		}
		require.Equal(t, expected, got)
	}
}

// TestTooMuchForOne: images to copy are split into parts with current digests. Other images are
// finished at once, and failed ones do not delay the parts.
func TestTooMuchForOne(t *testing.T) {
	const tags, distinct = 2*maxCopies + 50, maxCopies + 25
	b := newHarness(t)
	require.NoError(t, b.from.AddSynthetic(repository, registrytest.Synthetic{Tags: registrytest.Numbered("%03d", tags), Distinct: distinct}))
	defer b.from.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref("042")), Status: 502})()
	first := b.entry("")
	first.Images = []message.Image{{Tag: reference.MustTag("000")}}
	require.Empty(t, b.do(t, first).Left)
	b.reset()

	result := b.do(t, b.entry(""))
	require.Zero(t, b.from.Pulls())
	// 000 and the other tags of its digest.
	require.Equal(t, run.Tally{Total: 2, Tagged: 1, Unchanged: 1}, b.images)
	require.Equal(t, []message.Image{{Tag: reference.MustTag("042"), Attempts: 1}}, result.Left[0].Images)
	require.Len(t, result.Parts, 3)
	found := map[string]bool{}
	for _, part := range result.Parts {
		require.Len(t, part, 1)
		digests := map[string]bool{}
		for _, image := range part[0].Images {
			require.False(t, found[image.Tag.String()])
			found[image.Tag.String()] = true
			digests[image.Digest.String()] = true
			want, err := b.from.Digest(repository, image.Tag.String())
			require.NoError(t, err)
			require.Equal(t, want, image.Digest.String())
		}
		require.LessOrEqual(t, len(digests), partCopies)
	}
	require.Len(t, found, tags-3)

	b.reset()
	last := result.Parts[len(result.Parts)-1]
	require.Empty(t, b.do(t, last...).Left)
	require.Equal(t, len(last[0].Images), b.images.Copied+b.images.Tagged)
	require.Zero(t, b.from.Count(heads), "the digests of a fresh part are believed")
	require.Equal(t, b.images.Copied, b.from.Pulls())
}

// TestNobodyToShareWith: a worker that is alone splits nothing.
func TestNobodyToShareWith(t *testing.T) {
	b := newHarness(t)
	b.Alone = true
	require.NoError(t, b.from.AddSynthetic(repository, registrytest.Synthetic{Tags: registrytest.Numbered("%03d", maxCopies+1)}))
	result := b.do(t, b.entry(""))
	require.Empty(t, result.Parts)
	require.Empty(t, result.Left)
	require.Equal(t, run.Tally{Total: maxCopies + 1, Copied: maxCopies + 1}, b.images)
}

// TestMuchThatIsLeftIsShared: the images of a large remainder are looked up at once, and split into
// parts.
func TestMuchThatIsLeftIsShared(t *testing.T) {
	b := newHarness(t)
	names := registrytest.Numbered("%03d", maxCopies+1)
	require.NoError(t, b.from.AddSynthetic(repository, registrytest.Synthetic{Tags: names}))
	left := b.entry("")
	for _, name := range names {
		left.Images = append(left.Images, message.Image{Tag: reference.MustTag(name)})
	}
	require.NotEmpty(t, b.deliver(t, Delivery{Chunk: b.chunk(left), Remainder: true}).Parts)
	require.Zero(t, b.from.Pulls())
}
