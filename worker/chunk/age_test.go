package chunk

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
)

const threeDays = 72 * time.Hour

// aged makes an entry with a minimum age of three days.
func (b *harness) aged(tag string) message.Repository {
	r := b.entry(tag)
	r.Selection = selection.Selection{MinAge: selection.Age(threeDays)}.Pointer()
	return r
}

// TestMinAge: a tag is mirrored once it has had its digest for long enough. A new digest waits,
// the destination keeps the old one, and a tag that goes back and forth waits from the start.
func TestMinAge(t *testing.T) {
	b := newHarness(t)
	push := func(tag, version string) string {
		t.Helper()
		digest, err := b.from.PushImage(repository, tag, registrytest.Image{Version: version})
		require.NoError(t, err)
		return digest
	}
	deliver := func(entries ...message.Repository) run.Tally {
		t.Helper()
		b.tags = nil
		require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(entries...), Fresh: true}).Left)
		return b.images
	}
	at := func(tag string) string {
		t.Helper()
		digest, err := b.to.Digest(destination, tag)
		require.NoError(t, err)
		return digest
	}
	first := push("1", "one")
	require.Equal(t, run.Tally{Total: 1, Waiting: 1}, deliver(b.aged("")))
	require.Zero(t, b.from.Pulls())
	require.Zero(t, b.to.Count(puts))
	require.Equal(t, run.Waiting, b.tags[0].State)
	require.WithinDuration(t, time.Now().Add(threeDays), b.tags[0].Until, time.Minute)
	require.Contains(t, b.tags[0].Why, "the tag has not had its digest for long enough: it waits until ")

	b.advanced.Add(int64(threeDays - time.Hour))
	require.Equal(t, run.Tally{Total: 1, Waiting: 1}, deliver(b.aged("")))
	b.advanced.Add(int64(2 * time.Hour))
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, deliver(b.aged("")))

	second := push("1", "two")
	require.Equal(t, run.Tally{Total: 1, Waiting: 1}, deliver(b.aged("")))
	require.Equal(t, first, at("1"))
	b.advanced.Add(int64(2 * 24 * time.Hour))
	push("1", "one") // the source undoes an attack
	require.Equal(t, run.Tally{Total: 1, Unchanged: 1}, deliver(b.aged("")))
	push("1", "two")
	b.advanced.Add(int64(2 * 24 * time.Hour))
	require.Equal(t, run.Tally{Total: 1, Waiting: 1}, deliver(b.aged("")), "it has not stood for three days in a row")

	// It waits under its own name, under another tag, and in a republish, too.
	require.Equal(t, run.Tally{Total: 1, Waiting: 1}, deliver(b.aged("1")))
	republished := b.aged("")
	republished.Images = []message.Image{{Tag: reference.MustTag("1"), Digest: reference.MustDigest(second)}}
	c := b.chunk(republished)
	c.Republished = true
	require.Empty(t, b.deliver(t, Delivery{Chunk: c, Fresh: true}).Left)
	require.Equal(t, run.Tally{Total: 1, Waiting: 1}, b.images)
	push("2", "two")
	require.Equal(t, run.Tally{Total: 2, Waiting: 2}, deliver(b.aged("")))
	require.Equal(t, first, at("1"))

	// An image that was released, or that the list pins, does not wait.
	pinned := b.aged("")
	pinned.Digest = reference.MustDigest(second)
	require.Equal(t, run.Tally{Total: 1, Copied: 1}, deliver(pinned))
	require.Equal(t, run.Tally{Total: 2, Waiting: 2}, deliver(b.aged("")), "a tag waits though its content is there")
	b.ReleasedDigests = map[reference.Digest]bool{reference.MustDigest(second): true}
	require.Equal(t, run.Tally{Total: 2, Tagged: 2}, deliver(b.aged("")))
	require.Equal(t, second, at("1"))
}

// TestMinAgeOfIndexes: while an index waits, neither its images nor its signature are copied.
func TestMinAgeOfIndexes(t *testing.T) {
	b := newHarness(t)
	digest, err := b.from.PushIndex(repository, "1", registrytest.MultiPlatform("one", "linux/amd64", "linux/arm64"))
	require.NoError(t, err)
	_, err = b.from.PushSignature(repository, digest)
	require.NoError(t, err)
	r := b.aged("")
	r.Selection.Include = []string{"1"}
	require.Empty(t, b.deliver(t, Delivery{Chunk: b.chunk(r), Fresh: true}).Left)
	require.Equal(t, 2, b.images.Waiting, "with the signature, which is as young: %+v", b.images)
	require.Zero(t, b.to.Count(puts))
	require.Zero(t, b.from.Pulls())
}

// TestMinAgeByTheSource: the times that a source lists count from the first look, also for tags that
// the list names. Times in the future do not count. A digest that comes back waits again, also in a
// remainder.
func TestMinAgeByTheSource(t *testing.T) {
	b := newHarnessBetween(t, registrytest.New(t, registrytest.WithQuayAPI(registrytest.BulkAPI{})), registrytest.New(t))
	client := b.Mirror.Registry
	b.Resolver = &resolve.Upstream{Registry: client, Listing: listing.New(listing.Options{Registry: client, QuayHosts: []string{b.from.Host()}})}
	since := func(tag string, ago time.Duration) {
		t.Helper()
		require.True(t, b.from.SetTagTime(repository, tag, b.now().Add(-ago)))
	}
	deliver := func(c message.Chunk) run.Tally {
		t.Helper()
		b.tags = nil
		require.Empty(t, b.deliver(t, Delivery{Chunk: c, Fresh: true}).Left)
		return b.images
	}
	b.push(t, "named", "listed", "old", "young", "future")
	for _, tag := range []string{"named", "listed", "old"} {
		since(tag, threeDays+time.Hour)
	}
	since("young", threeDays-time.Hour)
	since("future", -time.Hour)

	require.Equal(t, run.Tally{Total: 1, Copied: 1}, deliver(b.chunk(b.aged("named"))))
	list := b.aged("")
	list.Selection.List = []string{"listed", "young"}
	require.Equal(t, run.Tally{Total: 2, Copied: 1, Waiting: 1}, deliver(b.chunk(list)))
	require.Equal(t, run.Tally{Total: 5, Copied: 1, Unchanged: 2, Waiting: 2}, deliver(b.chunk(b.aged(""))))
	for _, tag := range b.tags {
		switch tag.Name.String() {
		case "young":
			require.WithinDuration(t, b.now().Add(time.Hour), tag.Until, time.Minute)
		case "future":
			require.WithinDuration(t, b.now().Add(threeDays), tag.Until, time.Minute)
		}
	}

	// The old digest is replaced between two looks, and comes back.
	require.NoError(t, b.to.Untag(destination, "old"))
	since("old", time.Hour)
	require.Equal(t, run.Tally{Total: 5, Unchanged: 2, Waiting: 3}, deliver(b.chunk(b.aged(""))))
	left := b.aged("")
	left.Images = []message.Image{{Tag: reference.MustTag("old")}}
	require.Equal(t, run.Tally{Total: 1, Waiting: 1}, deliver(b.chunk(left)))
	left.Images = []message.Image{{Tag: reference.MustTag("named")}}
	require.NoError(t, b.to.Untag(destination, "named"))
	require.Equal(t, run.Tally{Total: 1, Tagged: 1}, deliver(b.chunk(left)), "what is old enough does not wait for want of a listing")
}
