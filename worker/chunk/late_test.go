package chunk

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestLeftIsLookedUpInTurn: of what a spent budget has left, no more is looked up than
// is about to be copied; then each image once. What has happened to the tags meanwhile
// counts.
func TestLeftIsLookedUpInTurn(t *testing.T) {
	b := newBench(t)
	b.Concurrency = 2
	names := registrytest.Numbered("%02d", maxCopies/2)
	b.push(t, names...)
	b.move(t, "01", "00") // an alias
	b.move(t, "02", "moved")
	left := b.entry("")
	for _, name := range append(names, "gone") {
		left.Images = append(left.Images, message.Image{Tag: name})
	}
	remove := b.from.Inject(registrytest.Fault{Match: gets, Status: 429, Header: map[string][]string{"Retry-After": {"60"}}})
	result := b.deliver(t, Delivery{Chunk: b.chunk(left), Remainder: true})
	require.Len(t, result.Left, 1)
	require.Len(t, result.Left[0].Images, len(left.Images))
	require.LessOrEqual(t, b.from.Count(heads), b.Concurrency)
	require.LessOrEqual(t, b.to.Count(heads), 2*b.Concurrency)

	remove()
	b.reset()
	result = b.deliver(t, Delivery{Chunk: b.chunk(result.Left...), Remainder: true})
	require.Empty(t, result.Left)
	require.Equal(t, run.Tally{Total: len(names) + 1, Copied: len(names) - 1, Tagged: 1, Skipped: 1}, b.images)
	require.Equal(t, len(names)+1, b.from.Count(heads))
	require.Equal(t, len(names)-1, b.from.Pulls())
	b.mirrored(t, names...)
}

// TestMuchThatIsLeftIsShared: it is looked up at once, to be split.
func TestMuchThatIsLeftIsShared(t *testing.T) {
	b := newBench(t)
	names := registrytest.Numbered("%03d", maxCopies+1)
	require.NoError(t, b.from.AddSynthetic(repository, registrytest.Synthetic{Tags: names}))
	left := b.entry("")
	for _, name := range names {
		left.Images = append(left.Images, message.Image{Tag: name})
	}
	require.NotEmpty(t, b.deliver(t, Delivery{Chunk: b.chunk(left), Remainder: true}).Parts)
	require.Zero(t, b.from.Pulls())
}
