package chunk

import (
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
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

var (
	steps     = flag.Int("steps", 40, "how many steps of TestEveryStep go wrong; 0: all of them")
	stepsSeed = flag.Uint64("steps.seed", 0, "which ones; 0: others each time")
)

// mishap is what happens to a request.
type mishap struct {
	name  string
	fault registrytest.Fault
}

var html = http.Header{"Content-Type": {"text/html"}}

var mishaps = []mishap{
	{"reset", registrytest.Fault{Reset: true}},
	{"cut", registrytest.Fault{TruncateBody: true}},
	{"cut upload", registrytest.Fault{CutUpload: 7}},
	{"hang", registrytest.Fault{Hang: true}},
	{"500", registrytest.Fault{Status: 500}},
	{"503", registrytest.Fault{Status: 503, Header: http.Header{"Retry-After": {"1"}}}},
	{"429", registrytest.Fault{Status: 429}},
	{"400", registrytest.Fault{Status: 400}},
	{"401", registrytest.Fault{Status: 401}},
	{"403", registrytest.Fault{Status: 403}},
	{"404", registrytest.Fault{Status: 404}},
	{"405", registrytest.Fault{Status: 405}},
	{"413", registrytest.Fault{Status: 413}},
	{"416", registrytest.Fault{Status: 416}},
	{"200 with a page", registrytest.Fault{Status: 200, Header: html, Body: "<html><title>Welcome</title></html>"}},
	{"200 with nothing", registrytest.Fault{Status: 200}},
	{"200 with JSON", registrytest.Fault{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: "{}"}},
	{"201", registrytest.Fault{Status: 201}},
	{"202", registrytest.Fault{Status: 202}},
	{"204", registrytest.Fault{Status: 204}},
	{"206", registrytest.Fault{Status: 206, Body: "x"}},
	{"a redirect without a target", registrytest.Fault{Status: 307}},
	{"a redirect to nowhere", registrytest.Fault{Status: 307, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}}},
}

// TestTagsOfOneDigestFailTogether if the destination does not answer what it has of it.
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

// TestEveryStep: whatever happens to any request, once or from then on, what is said to be
// at the destination is there with all that belongs to it, what is not is a failure with a
// reason or left, and the next run mends it.
func TestEveryStep(t *testing.T) {
	seed := *stepsSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat with -steps.seed=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	type step struct {
		*world
		atSource, onward bool
		number           int
		mishap
	}
	var all []step
	for _, w := range worlds {
		clean := newStepped(t, w)
		source, target := clean.count(clean.from, mishap{}, 0, false), clean.count(clean.to, mishap{}, 0, false)
		require.Empty(t, clean.do(t, clean.entry("")).Left, w.name)
		w.made = clean.tagsAt(t)
		clean.whole(t)
		for _, atSource := range []bool{true, false} {
			requests := source.Load()
			if !atSource {
				requests = target.Load()
			}
			for number := range int(requests) {
				for _, m := range mishaps {
					all = append(all, step{w, atSource, false, number + 1, m}, step{w, atSource, true, number + 1, m})
				}
			}
		}
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if *steps > 0 {
		all = all[:min(*steps, len(all))]
	}
	for _, s := range all {
		t.Run(fmt.Sprintf("%s, %s, request %d, source %t, onward %t", s.world.name, s.mishap.name, s.number, s.atSource, s.onward), func(t *testing.T) {
			t.Parallel()
			b := newStepped(t, s.world)
			at := b.to
			if s.atSource {
				at = b.from
			}
			b.count(at, s.mishap, s.number, s.onward)
			b.goWrong(t)
		})
	}
}

// world is what TestEveryStep mirrors, and how.
type world struct {
	name     string
	from, to []registrytest.Option
	quay     bool // both registries list digests
	chosen   selection.Selection
	made     map[string]string // the digests at the destination if nothing goes wrong
}

var (
	tokens = registrytest.WithTokenAuth(registrytest.TokenAuth{Anonymous: true})
	worlds = []*world{
		{name: "plain", chosen: withReferrers, from: []registrytest.Option{tokens}},
		{name: "referrers", chosen: withReferrers, from: []registrytest.Option{registrytest.WithReferrersAPI(1)}, to: []registrytest.Option{registrytest.WithReferrersAPI(0)}},
		{name: "Quay", quay: true, from: []registrytest.Option{registrytest.WithQuayAPI(registrytest.BulkAPI{PageLimit: 2})}, to: []registrytest.Option{registrytest.WithQuayAPI(registrytest.BulkAPI{})}},
		{name: "platforms", chosen: selection.Selection{Platforms: []string{"linux/arm64"}}},
		{name: "backup", chosen: selection.Selection{Backup: selection.Backup{Template: "{tag}-old", Keep: 1}}},
	}
)

// stepped is a harness with such a world.
type stepped struct {
	*harness
	world  *world
	old    string // the digest that is replaced
	remove []func()
}

func newStepped(t *testing.T, w *world) *stepped {
	t.Helper()
	b := &stepped{world: w, harness: newHarnessBetween(t, registrytest.New(t, w.from...), registrytest.New(t, w.to...))}
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

// count counts the requests to a registry, and lets a mishap happen to one of them, and to
// all after it if onward is set.
func (b *stepped) count(at *registrytest.Registry, m mishap, number int, onward bool) *atomic.Int64 {
	var count atomic.Int64
	m.fault.Match = func(r registrytest.Request) bool {
		if r.Status != 0 {
			return false
		}
		n := int(count.Add(1))
		return number > 0 && (n == number || onward && n > number)
	}
	b.remove = append(b.remove, at.Inject(m.fault))
	return &count
}

// goWrong works a chunk off, and requires that nothing is wrong with what was reported.
func (b *stepped) goWrong(t *testing.T) {
	t.Helper()
	result := b.do(t, b.entry(""))
	for range 3 { // what is left for now
		if len(result.Left) == 0 {
			break
		}
		result = b.deliver(t, Delivery{Chunk: b.chunk(result.Left...), Remainder: true})
	}
	b.honest(t, len(result.Left) > 0)

	for _, remove := range b.remove {
		remove()
	}
	b.advanced.Add(int64(time.Hour))
	b.doAgain(t, b.entry(""))
	b.whole(t)
}

// honest requires that each tag of the destination is whole, that those that are not what they
// should be were reported, and that what was replaced has its backup.
func (b *stepped) honest(t *testing.T, left bool) {
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
	if b.images.Failed > 0 || wrong > 0 && !left {
		require.NotEmpty(t, b.kept.records, "%d tags are missing or old: %+v", wrong, b.images)
	}
}

// whole requires that everything was mirrored.
func (b *stepped) whole(t *testing.T) {
	t.Helper()
	require.Equal(t, b.world.made, b.tagsAt(t))
	for tag := range b.world.made {
		require.NoError(t, b.to.Check(destination, tag))
	}
	require.Empty(t, b.kept.records)
}
