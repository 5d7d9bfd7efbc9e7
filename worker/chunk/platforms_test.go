package chunk

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// selected is an entry with a selection of its own.
func (b *harness) selected(tag string, s selection.Selection) message.Repository {
	r := b.entry(tag)
	r.Selection = &s
	return r
}

// index puts a two-platform index under the tags, and returns its digest.
func (b *harness) index(t *testing.T, version string, tags ...string) string {
	t.Helper()
	var digest string
	for _, tag := range tags {
		var err error
		digest, err = b.from.PushIndex(repository, tag, registrytest.MultiPlatform(version, "linux/amd64", "linux/arm64"))
		require.NoError(t, err)
	}
	return digest
}

func (b *harness) reset() {
	b.from.ResetRequests()
	b.to.ResetRequests()
}

func (b *harness) digestAt(t *testing.T, tag string) string {
	t.Helper()
	digest, err := b.to.Digest(destination, tag)
	require.NoError(t, err)
	return digest
}

var amd64 = selection.Selection{Platforms: []string{"linux/amd64"}}

// TestPlatforms: all tags of an index get an index of the wanted platforms, with one copy. The next run
// finds it with one GET at the destination. A later alias is only tagged. Other platforms are copied.
func TestPlatforms(t *testing.T) {
	b := newHarness(t)
	source := b.index(t, "1", "1", "1.0")
	b.push(t, "single")
	require.Empty(t, b.do(t, b.selected("", amd64)).Left)
	require.Equal(t, run.Tally{Total: 3, Copied: 2, Tagged: 1}, b.images)
	require.Equal(t, 4, b.pulls, "the index, its image, the attestation; the single image")
	require.Equal(t, 4, b.from.Pulls())
	subset := b.digestAt(t, "1")
	require.NotEqual(t, source, subset)
	require.Equal(t, subset, b.digestAt(t, "1.0"))
	require.NoError(t, b.to.Check(destination, "1"))
	b.mirrored(t, "single")

	b.reset()
	require.Empty(t, b.do(t, b.selected("", amd64)).Left)
	require.Equal(t, run.Tally{Total: 3, Unchanged: 3}, b.images)
	require.Zero(t, b.from.Pulls())
	require.Equal(t, 3, b.to.Count(gets))
	require.Zero(t, b.to.Count(heads)+b.to.Count(puts))

	b.index(t, "1", "latest")
	b.reset()
	require.Empty(t, b.do(t, b.selected("", amd64)).Left)
	require.Equal(t, run.Tally{Total: 4, Tagged: 1, Unchanged: 3}, b.images)
	require.Zero(t, b.from.Pulls())
	require.Equal(t, subset, b.digestAt(t, "latest"))

	b.reset()
	bare := amd64
	bare.WithoutAttestations = true
	require.Empty(t, b.do(t, b.selected("", bare)).Left)
	require.Equal(t, run.Tally{Total: 4, Copied: 1, Tagged: 2, Unchanged: 1}, b.images)
	require.Equal(t, 1, b.from.Pulls(), "what it needs of the index is there")
	require.NotEqual(t, subset, b.digestAt(t, "1"))

	b.reset()
	require.Empty(t, b.do(t, b.entry("")).Left)
	require.Equal(t, run.Tally{Total: 4, Copied: 1, Tagged: 2, Unchanged: 1}, b.images)
	require.Equal(t, 3, b.from.Pulls(), "the index, and the other platform with its attestation")
	b.mirrored(t, "1", "1.0", "latest", "single")

	b.reset()
	require.Empty(t, b.do(t, b.selected("", amd64)).Left)
	require.Equal(t, run.Tally{Total: 4, Copied: 1, Tagged: 2, Unchanged: 1}, b.images)
	require.Equal(t, subset, b.digestAt(t, "1"), "the same wishes give the same index")
}

// TestAliasesOfSeveralEntries: tags in entries of their own share a copy, and an alias costs no pull in
// the next run, as in one entry.
func TestAliasesOfSeveralEntries(t *testing.T) {
	for name, s := range map[string]selection.Selection{"all platforms": {}, "one platform": amd64} {
		t.Run(name, func(t *testing.T) {
			b := newHarness(t)
			b.index(t, "1", "1", "1.0")
			require.Empty(t, b.do(t, b.selected("1", s), b.selected("1.0", s)).Left)
			require.Equal(t, run.Tally{Total: 2, Copied: 1, Tagged: 1}, b.images)
			distinct := map[string]int{}
			for _, r := range b.from.Requests() {
				if gets(r) {
					distinct[r.Reference]++
				}
			}
			for digest, n := range distinct {
				require.Equal(t, 1, n, digest)
			}
			b.index(t, "1", "latest")
			b.reset()
			require.Empty(t, b.do(t, b.selected("1", s), b.selected("latest", s)).Left)
			require.Equal(t, run.Tally{Total: 2, Tagged: 1, Unchanged: 1}, b.images)
			require.Zero(t, b.from.Pulls())
			require.Equal(t, b.digestAt(t, "1"), b.digestAt(t, "latest"))
		})
	}
}

// TestNothingWanted: an image without a wanted platform is skipped, and pulled once to find that out.
func TestNothingWanted(t *testing.T) {
	b := newHarness(t)
	index := b.index(t, "1", "multi", "alias")
	_, err := b.from.PushImage(repository, "image", registrytest.Image{Platform: "linux/arm64"})
	require.NoError(t, err)
	s390x := selection.Selection{Platforms: []string{"linux/s390x"}}
	for night, pulls := range []int{2, 0} {
		b.reset()
		require.Empty(t, b.do(t, b.selected("", s390x)).Left)
		require.Equal(t, run.Tally{Total: 3, Skipped: 3}, b.images)
		require.Equal(t, pulls, b.from.Pulls(), "night %d", night+1)
		require.Equal(t, pulls, b.pulls)
		require.Empty(t, b.kept.records)
		tags, err := b.to.Tags(destination)
		require.True(t, err != nil || len(tags) == 0, "%v", tags)
	}
	absent, err := b.Absent(t.Context(), reference.MustDigest(index), platform.Wanted{Platforms: amd64.Platforms})
	require.NoError(t, err)
	require.False(t, absent, "it has others")
}

// TestEmptyDestination: one request shows that a repository is missing.
func TestEmptyDestination(t *testing.T) {
	b := newHarness(t)
	b.push(t, registrytest.Numbered("%d", 12)...)
	byTag := func(r registrytest.Request) bool { return heads(r) && r.Reference[0] != 's' }
	require.Empty(t, b.do(t, b.entry("")).Left)
	require.Equal(t, run.Tally{Total: 12, Copied: 12}, b.images)
	require.Equal(t, 1, b.to.Count(byTag))
	require.Equal(t, 1, b.to.Count(lists))

	// If the first tag is new, the others may exist.
	b.push(t, "0-new")
	b.reset()
	require.Empty(t, b.do(t, b.entry("")).Left)
	require.Equal(t, run.Tally{Total: 13, Copied: 1, Unchanged: 12}, b.images)
	require.Equal(t, 13, b.to.Count(byTag))
}

// TestSkippedAfterAFailure: a failed image that turns out to have no wanted platform is not a
// failure any more.
func TestSkippedAfterAFailure(t *testing.T) {
	b := newHarness(t)
	b.push(t, "1")
	entry := b.selected("", selection.Selection{Platforms: []string{"linux/s390x"}})
	remove := b.from.Inject(registrytest.Fault{Match: manifests, Status: 502})
	b.do(t, entry)
	require.Len(t, b.kept.records, 1)
	remove()
	b.do(t, entry)
	require.Equal(t, run.Tally{Total: 1, Skipped: 1}, b.images)
	require.Empty(t, b.kept.records)
}
