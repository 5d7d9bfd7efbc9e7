package chunk

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// releases returns an entry whose version tags are immutable.
func (b *harness) releases() message.Repository {
	r := b.entry("")
	r.Selection = selection.Selection{Immutable: []string{"v?[0-9]"}}.Pointer()
	return r
}

// TestImmutable: if the source moves a version, the move is reported with both digests, and the
// destination keeps its image. Versions that the destination has cost no request at either side.
func TestImmutable(t *testing.T) {
	b := newHarness(t)
	push := func(tag, version string) string {
		t.Helper()
		digest, err := b.from.PushImage(repository, tag, registrytest.Image{Version: version})
		require.NoError(t, err)
		return digest
	}
	deliver := func() run.Tally {
		t.Helper()
		b.changes, b.tags = nil, nil
		b.from.ResetRequests()
		b.to.ResetRequests()
		require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(b.releases()), Fresh: true}).Left)
		return b.images
	}
	first := push("1.0", "one")
	push("latest", "one")
	require.Equal(t, run.Tally{Total: 2, Copied: 1, Tagged: 1}, deliver())

	require.Equal(t, run.Tally{Total: 2, Unchanged: 2}, deliver())
	require.Equal(t, 1, b.from.Count(heads), "only latest is looked up")
	require.Equal(t, 1, b.to.Count(manifests), "only latest is compared")
	require.Equal(t, 1, b.to.Count(lists))

	second := push("1.0", "evil")
	push("latest", "evil")
	require.Equal(t, run.Tally{Total: 2, Copied: 1, Unchanged: 1}, deliver(), "a registry without digests in its listing is not asked")

	// Once the destination is asked again, the source is, too.
	for tag, h := range b.HeldTags[b.releases().Destination] {
		h.Fresh = false
		b.HeldTags[b.releases().Destination][tag] = h
	}
	require.Equal(t, run.Tally{Total: 2, Unchanged: 1, Kept: 1}, deliver())
	requireKept := func() {
		t.Helper()
		require.Len(t, b.changes, 1)
		require.Equal(t, change.Kept, b.changes[0].Kind())
		require.Equal(t, []string{first, second}, []string{b.changes[0].From.String(), b.changes[0].Refused.String()})
		at, err := b.to.Digest(destination, "1.0")
		require.NoError(t, err)
		require.Equal(t, first, at)
	}
	requireKept()
	for _, tag := range b.tags {
		if tag.State == run.Kept {
			require.Equal(t, "the source has moved an immutable tag: the destination keeps "+first+", the source has "+second, tag.Why)
		}
	}

	// Without notes, the destination is asked, and keeps its image, too.
	b.HeldTags = nil
	require.Equal(t, run.Tally{Total: 2, Unchanged: 1, Kept: 1}, deliver())
	requireKept()
}

// TestImmutableIsLost: if the destination loses an immutable tag, it gets the tag again if the source
// has not moved it.
func TestImmutableIsLost(t *testing.T) {
	b := newHarness(t)
	first, err := b.from.PushImage(repository, "1.0", registrytest.Image{Version: "one"})
	require.NoError(t, err)
	deliver := func() run.Tally {
		t.Helper()
		b.changes = nil
		for tag, h := range b.HeldTags[b.releases().Destination] {
			h.Fresh = false
			b.HeldTags[b.releases().Destination][tag] = h
		}
		require.NoError(t, b.to.Untag(destination, "1.0"))
		require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(b.releases()), Fresh: true}).Left)
		return b.images
	}
	require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(b.releases()), Fresh: true}).Left)
	require.Equal(t, run.Tally{Total: 1, Tagged: 1}, deliver())
	at, err := b.to.Digest(destination, "1.0")
	require.NoError(t, err)
	require.Equal(t, first, at)

	second, err := b.from.PushImage(repository, "1.0", registrytest.Image{Version: "evil"})
	require.NoError(t, err)
	require.Equal(t, run.Tally{Total: 1, Kept: 1}, deliver())
	require.Equal(t, second, b.changes[0].Refused.String())
	_, err = b.to.Digest(destination, "1.0")
	require.ErrorIs(t, err, registrytest.ErrNotFound)
}

// TestImmutableAtAnEmptyDestination: an emptied destination gets all tags again in the next run.
func TestImmutableAtAnEmptyDestination(t *testing.T) {
	b := newHarness(t)
	b.push(t, "1.0", "2.0")
	deliver := func() run.Tally {
		t.Helper()
		require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(b.releases()), Fresh: true}).Left)
		return b.images
	}
	require.Equal(t, run.Tally{Total: 2, Copied: 2}, deliver())
	require.NoError(t, b.to.Untag(destination, "2.0"))
	require.Equal(t, run.Tally{Total: 2, Tagged: 1, Unchanged: 1}, deliver())
	require.NoError(t, b.to.Untag(destination, "1.0"))
	require.NoError(t, b.to.Untag(destination, "2.0"))
	require.Equal(t, run.Tally{Total: 2, Copied: 2}, deliver())
	b.mirrored(t, "1.0", "2.0")

	b.to.Inject(registrytest.Fault{Match: lists, Status: 500})
	require.Equal(t, run.Tally{Total: 2, Unchanged: 2}, deliver(), "then each is asked for")
	require.NotZero(t, b.to.Count(heads))
}

// TestImmutableRace: an immutable tag stays if another worker puts it between comparison and copy.
func TestImmutableRace(t *testing.T) {
	b := newHarness(t)
	_, err := b.from.PushImage(repository, "1.0", registrytest.Image{Version: "one"})
	require.NoError(t, err)
	asked, gate := b.from.Notify(blobs), make(chan struct{})
	b.from.Inject(registrytest.Fault{Match: blobs, Gate: gate})
	other := make(chan string, 1)
	go func() {
		defer close(gate)
		<-asked
		digest, err := b.to.PushImage(destination, "1.0", registrytest.Image{Version: "other"})
		assert.NoError(t, err)
		other <- digest
	}()
	require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(b.releases()), Fresh: true}).Left)
	require.Equal(t, run.Tally{Total: 1, Kept: 1}, b.images)
	at, err := b.to.Digest(destination, "1.0")
	require.NoError(t, err)
	require.Equal(t, <-other, at)
}

// TestImmutableAndMinAge: a move of an immutable tag is reported at once, however young it is.
func TestImmutableAndMinAge(t *testing.T) {
	b := newHarness(t)
	_, err := b.from.PushImage(repository, "1.0", registrytest.Image{Version: "one"})
	require.NoError(t, err)
	require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(b.releases()), Fresh: true}).Left)
	_, err = b.from.PushImage(repository, "1.0", registrytest.Image{Version: "evil"})
	require.NoError(t, err)
	entry := b.releases()
	entry.Selection.MinAge = selection.Age(threeDays)
	b.HeldTags = nil
	require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(entry), Fresh: true}).Left)
	require.Equal(t, run.Tally{Total: 1, Kept: 1}, b.images)
}

// TestImmutableOfAnotherSource: notes about tags of one source do not count for another source with the
// same destination.
func TestImmutableOfAnotherSource(t *testing.T) {
	b := newHarness(t)
	b.move(t, "1.0", "one")
	require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(b.releases()), Fresh: true}).Left)
	other := b.releases()
	other.Source = reference.MustRepository(b.from.Host() + "/another")
	_, err := b.from.PushImage("another", "1.0", registrytest.Image{Version: "another"})
	require.NoError(t, err)
	for range 2 {
		require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(other), Fresh: true}).Left)
		require.Equal(t, run.Tally{Total: 1, Kept: 1}, b.images)
	}
}
