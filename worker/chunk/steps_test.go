package chunk

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
)

var sample = registrytest.NewSample(16)

// TestTagsOfOneDigestFailTogether: if a digest cannot be looked up at the destination, all its tags
// fail.
func TestTagsOfOneDigestFailTogether(t *testing.T) {
	b := newHarness(t)
	b.push(t, "1")
	b.move(t, "latest", "1")
	_, err := b.to.PushImage(destination, "0", registrytest.Image{Version: "0"})
	require.NoError(t, err)
	digest, err := b.from.Digest(repository, "1")
	require.NoError(t, err)
	b.to.Inject(registrytest.Fault{Match: registrytest.All(manifests, registrytest.Ref(digest)), Status: 502})
	require.Empty(t, b.do(t, b.entry("")).Left)
	require.Equal(t, run.Tally{Total: 2, Failed: 2}, b.images)
	require.Len(t, b.kept.records, 2)
}

// TestEveryStep: one request fails, or all requests from one on. Images that are reported as
// mirrored are whole at the destination; the others are failures with a reason, or are left; and
// the next run completes them.
func TestEveryStep(t *testing.T) {
	type step struct {
		*world
		atSource bool
		registrytest.Step
	}
	var all []step
	for _, w := range worlds {
		clean := newStepped(t, w)
		require.Empty(t, clean.do(t, clean.entry("")).Left, w.name)
		w.made = clean.tagsAt(t)
		clean.whole(t)
		for _, s := range registrytest.Steps(len(clean.from.Requests())) {
			all = append(all, step{w, true, s})
		}
		for _, s := range registrytest.Steps(len(clean.to.Requests())) {
			all = append(all, step{w, false, s})
		}
	}
	for _, s := range registrytest.Some(t, all, sample) {
		at := "destination"
		if s.atSource {
			at = "source"
		}
		t.Run(fmt.Sprintf("%s, %s, %s", s.world.name, at, s.Step), func(t *testing.T) {
			t.Parallel()
			b := newStepped(t, s.world)
			if s.atSource {
				b.goWrong(t, b.from.Take(s.Step))
			} else {
				b.goWrong(t, b.to.Take(s.Step))
			}
		})
	}
}

// world is what TestEveryStep mirrors, and how.
type world struct {
	name           string
	source, target []registrytest.Option
	quay           bool // both registries list digests
	chosen         selection.Selection
	made           map[string]string // the digests at the destination without a fault
}

var (
	tokens = registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true})
	worlds = []*world{
		{name: "plain", chosen: withReferrers, source: []registrytest.Option{tokens}},
		{name: "referrers", chosen: withReferrers, source: []registrytest.Option{registrytest.WithReferrersAPI(1)}, target: []registrytest.Option{registrytest.WithReferrersAPI(0)}},
		{name: "Quay", quay: true, source: []registrytest.Option{registrytest.WithQuayAPI(registrytest.BulkAPI{PageLimit: 2})}, target: []registrytest.Option{registrytest.WithQuayAPI(registrytest.BulkAPI{})}},
		{name: "platforms", chosen: selection.Selection{Platforms: []string{"linux/arm64"}}},
		{name: "backup", chosen: selection.Selection{Backup: selection.Backup{Template: "{tag}-old", Keep: 1}}},
	}
)

// stepped is a harness with such a world.
type stepped struct {
	*harness
	world *world
	old   string // the digest that is replaced
}

func newStepped(t *testing.T, w *world) *stepped {
	t.Helper()
	b := &stepped{world: w, harness: newHarnessBetween(t, registrytest.New(t, w.source...), registrytest.New(t, w.target...))}
	if w.quay {
		hosts := []string{b.from.Host(), b.to.Host()}
		listers := listing.New(listing.Options{Registry: b.Mirror.Registry, QuayHosts: hosts, Log: slog.New(slog.DiscardHandler)})
		b.Resolver, b.Mirror.Listing = &resolve.Upstream{Registry: b.Mirror.Registry, Listing: listers}, listers
	}
	image := b.move(t, "1", "1")
	index, err := b.from.PushIndex(repository, "2", registrytest.MultiPlatform("2", "linux/amd64", "linux/arm64"))
	require.NoError(t, err)
	b.move(t, "latest", "1")
	_, err = b.from.PushSignature(repository, index)
	require.NoError(t, err)
	b.refer(t, image, sbom)
	b.old, err = b.to.PushImage(destination, "1", registrytest.Image{Version: "old"})
	require.NoError(t, err)
	return b
}

// entry is the repository as the world selects it.
func (b *stepped) entry(tag string) message.Repository { return b.selected(tag, b.world.chosen) }

// tagsAt returns the tags of the destination with their digests.
func (b *stepped) tagsAt(t *testing.T) map[string]string {
	t.Helper()
	tags, err := b.to.Tags(destination)
	require.NoError(t, err)
	at := map[string]string{}
	for _, tag := range tags {
		at[tag], err = b.to.Digest(destination, tag)
		require.NoError(t, err)
	}
	return at
}

// goWrong works off a chunk, and requires that its reports are true.
func (b *stepped) goWrong(t *testing.T, mend func()) {
	t.Helper()
	result := b.do(t, b.entry(""))
	denied := b.images.Vanished
	for range 3 { // what is left for now
		if len(result.Left) == 0 {
			break
		}
		result = b.deliver(t, Delivery{Chunk: b.chunk(result.Left...), Remainder: true})
		denied += b.images.Vanished
	}
	b.honest(t, len(result.Left) > 0, denied)

	mend()
	b.advanced.Add(int64(time.Hour))
	b.doAgain(t, b.entry(""))
	b.whole(t)
}

// honest requires that each tag of the destination is whole, that each tag with a wrong digest was reported,
// and that each replaced image has a backup.
func (b *stepped) honest(t *testing.T, left bool, denied int) {
	t.Helper()
	at := b.tagsAt(t)
	wrong := 0
	for tag, want := range b.world.made {
		if at[tag] != want {
			wrong++
		}
	}
	for tag, digest := range at {
		require.NoError(t, b.to.Check(destination, tag))
		if tag != "1" || digest != b.old {
			require.Equal(t, b.world.made[tag], digest, tag)
		}
	}
	if !b.world.chosen.Backup.IsZero() && at["1"] != b.old {
		require.Equal(t, b.old, at["1-old"])
	}
	for source, failed := range b.kept.records {
		require.NotEmpty(t, failed.Reason, source)
	}
	if b.images.Failed > 0 || wrong > denied && !left {
		require.NotEmpty(t, b.kept.records, "%d tags are missing or old: %+v", wrong, b.images)
	}
}

// whole requires that everything was mirrored.
func (b *stepped) whole(t *testing.T) {
	t.Helper()
	require.Empty(t, b.kept.records)
	require.Equal(t, b.world.made, b.tagsAt(t))
	for tag := range b.world.made {
		require.NoError(t, b.to.Check(destination, tag))
	}
}
