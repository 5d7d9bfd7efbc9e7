package chunk

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// resolved is the repository with one tag as it was found earlier.
func (b *harness) resolved(tag, digest string) message.Repository {
	r := b.entry("")
	r.Images = []message.Image{{Tag: reference.MustTag(tag), Digest: reference.MustDigest(digest)}}
	return r
}

// TestATagNeverGoesBackwards: a delivery that is not fresh looks up the digests in its message again.
func TestATagNeverGoesBackwards(t *testing.T) {
	b := newHarness(t)
	older := b.move(t, "1", "older")
	newer := b.move(t, "1", "newer")
	b.do(t, b.entry("1")) // another run was faster
	b.to.ResetRequests()
	result := b.deliver(t, Delivery{Chunk: b.chunk(b.resolved("1", older))})
	require.Empty(t, result.Left)
	require.Equal(t, run.Tally{Total: 1, Unchanged: 1}, b.images)
	require.Zero(t, b.to.Count(puts))
	got, err := b.to.Digest(destination, "1")
	require.NoError(t, err)
	require.Equal(t, newer, got)

	// If all tags are mirrored, a tag that has vanished is not a failure. If the list names it, it
	// is.
	require.NoError(t, b.from.Untag(repository, "1"))
	open := b.resolved("1", older)
	open.Found = true
	b.deliver(t, Delivery{Chunk: b.chunk(open)})
	require.Equal(t, run.Tally{Total: 1, Vanished: 1}, b.images)
	named := b.resolved("1", older)
	named.Tag = reference.MustTag("1")
	b.deliver(t, Delivery{Chunk: b.chunk(named)})
	require.Equal(t, run.Tally{Total: 1, Failed: 1}, b.images)
}

// TestFreshDigestsAreBelieved: the digests of a fresh delivery are not looked up, and missing ones are.
func TestFreshDigestsAreBelieved(t *testing.T) {
	b := newHarness(t)
	digest := b.move(t, "1", "1")
	b.push(t, "2")
	r := b.resolved("1", digest)
	r.Images = append(r.Images, message.Image{Tag: reference.MustTag("2")})
	b.do(t, r)
	require.Equal(t, run.Tally{Total: 2, Copied: 2}, b.images)
	require.Zero(t, b.from.Count(registrytest.All(heads, registrytest.Ref("1"))))
	require.Equal(t, 1, b.from.Count(registrytest.All(heads, registrytest.Ref("2"))))
	b.mirrored(t, "1", "2")
}

// TestDigestThatIsGone: if the tag has moved, and the source has deleted the old image, the new one
// is copied.
func TestDigestThatIsGone(t *testing.T) {
	b := newHarness(t)
	older := b.move(t, "1", "older")
	b.move(t, "1", "newer")
	require.NoError(t, b.from.DeleteManifest(repository, older))
	require.Empty(t, b.do(t, b.resolved("1", older)).Left)
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, b.images)
	b.mirrored(t, "1")

	// If the tag has not moved, a retry cannot help.
	gone := b.move(t, "2", "gone")
	defer b.from.Inject(registrytest.Fault{Match: gets, Status: 404})()
	b.from.ResetRequests()
	require.Empty(t, b.do(t, b.resolved("2", gone)).Left)
	require.Equal(t, run.Tally{Total: 1, Failed: 1}, b.images)
	require.Equal(t, 1, b.kept.only(t).Attempts)
	require.Equal(t, 1, b.from.Count(registrytest.All(heads, registrytest.Ref("2"))))
}

// TestTagThatMovesWhileItIsCopied: after a long copy, the tag is looked up again.
func TestTagThatMovesWhileItIsCopied(t *testing.T) {
	b := newHarness(t)
	older := b.move(t, "1", "older")
	gate := make(chan struct{})
	defer b.from.Inject(registrytest.Fault{Match: blobs, Gate: gate, Times: 1})()
	started := b.from.Notify(blobs)
	moved := make(chan string, 1)
	go func() {
		<-started
		digest, err := b.from.PushImage(repository, "1", registrytest.Image{Version: "newer"})
		if err == nil {
			moved <- digest
		}
		b.advanced.Add(int64(staleAfter + time.Second))
		close(gate)
	}()
	tagged := b.to.Notify(registrytest.All(puts, registrytest.Ref("1")))
	require.Empty(t, b.do(t, b.entry("")).Left)
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, b.images)
	b.mirrored(t, "1")
	<-tagged
	require.Equal(t, 1, b.to.Count(registrytest.All(puts, registrytest.Ref("1"))), "never with the older digest")
	require.NotEqual(t, older, <-moved)
}

// TestLeftIsLookedUpInTurn: in a remainder of a spent budget, each image is looked up once, when it is
// its turn. Changes of the tags meanwhile count.
func TestLeftIsLookedUpInTurn(t *testing.T) {
	b := newHarness(t)
	b.Concurrency = 2
	names := registrytest.Numbered("%02d", maxCopies/2)
	b.push(t, names...)
	b.move(t, "01", "00") // an alias
	b.move(t, "02", "moved")
	left := b.entry("")
	for _, name := range append(names, "gone") {
		left.Images = append(left.Images, message.Image{Tag: reference.MustTag(name)})
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
	require.Equal(t, run.Tally{Total: len(names) + 1, Copied: len(names) - 1, Tagged: 1, Vanished: 1}, b.images)
	require.Equal(t, len(names)+1, b.from.Count(heads))
	require.Equal(t, len(names)-1+1, b.from.Pulls(), "and to see that one is gone")
	b.mirrored(t, names...)
}

// TestCopying: copies are reported with the bytes that they move. Images that are only tagged are not.
func TestCopying(t *testing.T) {
	b := newHarness(t)
	b.index(t, "1", "1", "1.0")
	b.do(t, b.entry(""))
	require.Len(t, b.copies, 1)
	name := b.from.Host() + "/" + repository + ":1 to " + b.to.Host() + "/" + destination + ":1"
	require.Contains(t, b.copies, name)
	require.Positive(t, b.copies[name].Bytes())
	require.Equal(t, []string{name}, b.ended)

	b.index(t, "1", "2")
	b.copies, b.ended = nil, nil
	b.do(t, b.entry(""))
	require.Equal(t, run.Tally{Total: 3, Tagged: 1, Unchanged: 2}, b.images)
	require.Empty(t, b.copies)
}

// TestDestinationThatLosesContent: an image that the destination has lost before it is tagged is copied
// again.
func TestDestinationThatLosesContent(t *testing.T) {
	b := newHarness(t)
	b.index(t, "1", "1")
	defer b.to.Inject(registrytest.Fault{Match: registrytest.All(puts, registrytest.Ref("1")), Status: 404, Times: 1,
		Body: `{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}`})()
	require.Empty(t, b.do(t, b.entry("")).Left)
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, b.images)
	b.mirrored(t, "1")
}
