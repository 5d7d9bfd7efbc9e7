package mirror_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestColdRequests counts the requests for an index of two platforms, if the destination is empty and
// nothing is known about it.
func TestColdRequests(t *testing.T) {
	p := newPair(t)
	p.Free = func(reference.Repository) bool { return true }
	index := registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64")
	index.Attestations = false
	count := func() []int {
		return []int{
			p.to.Count(manifestHeads), p.to.Count(gets), p.to.Count(puts),
			p.to.Count(registrytest.Kinds(registrytest.KindTags)), p.from.Count(gets),
		}
	}
	bring := func(tag string, more bool) (empty bool) {
		p.from.ResetRequests()
		p.to.ResetRequests()
		pushed, err := p.from.Digest(repository, tag)
		require.NoError(t, err)
		current, have, empty, err := p.First(t.Context(), p.target(tag), reference.MustDigest(pushed), platform.Wanted{}, more)
		require.NoError(t, err)
		require.False(t, current)
		require.True(t, have.IsZero())
		_, err = p.copyAndTag(t, reference.MustDigest(pushed), tag)
		require.NoError(t, err)
		p.same(t, tag)
		return empty
	}
	for _, tag := range []string{"1", "2"} {
		index.Images[0].Version = tag // the other image is the same
		_, err := p.from.PushIndex(repository, tag, index)
		require.NoError(t, err)
	}

	require.True(t, bring("1", false), "the HEAD of an unknown registry is not believed: its tags are listed")
	require.Equal(t, []int{1, 0, 3, 1, 3}, count(), "HEADs, GETs and PUTs of manifests and lists of tags at the destination; pulls")
	require.Zero(t, p.to.Count(registrytest.Kinds(registrytest.KindBlobHead)), "it has no blobs either")

	// One image of the second tag was just put. It is looked up again, because others may delete it.
	require.False(t, bring("2", false))
	require.Equal(t, []int{2, 1, 2, 1, 2}, count(), "the list has tags, so a GET confirms that this one is missing")
}

// askedIndexes counts the calls of Index. It keeps nothing.
type askedIndexes struct {
	mirror.NoIndexes
	asked atomic.Int64
}

func (i *askedIndexes) Index(ctx context.Context, digest reference.Digest) (registry.Manifest, bool) {
	i.asked.Add(1)
	return i.NoIndexes.Index(ctx, digest)
}

// TestAsksForKeptIndexes: the broker is asked only for indexes, and only if the source limits pulls.
func TestAsksForKeptIndexes(t *testing.T) {
	for free, want := range map[bool]int64{true: 0, false: 1} {
		p := newPair(t)
		kept := &askedIndexes{}
		p.Free, p.Indexes = func(reference.Repository) bool { return free }, kept
		_, err := p.from.PushIndex(repository, "1", registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64"))
		require.NoError(t, err)
		_, err = p.mirror(t, "1")
		require.NoError(t, err)
		p.same(t, "1")
		require.Equal(t, want, kept.asked.Load(), "free: %t; an index, two images and an attestation of each", free)
	}
}
