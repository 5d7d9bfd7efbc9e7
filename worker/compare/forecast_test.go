package compare_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/check"
	"github.com/osism/skopeo-worker/worker/chunk"
	"github.com/osism/skopeo-worker/worker/comparetest"
	"github.com/osism/skopeo-worker/worker/deletion"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/meter"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// worlds is how many worlds TestForecast makes. WORLDS sets another number, and SEED the number of
// the first: SEED=7 WORLDS=1 repeats world 7.
const worlds = 50

// failed are worlds for which the test has failed: with companions below an index around a skipped
// image, and with referrers below two indexes.
var failed = []uint64{197451033, 197451144}

// TestForecast: in any world, a run does what the check before it has forecast, and a check after
// it finds nothing to do.
func TestForecast(t *testing.T) {
	first, n := uint64(rand.Uint32()), worlds
	if seed := os.Getenv("SEED"); seed != "" {
		var err error
		first, err = strconv.ParseUint(seed, 10, 64)
		require.NoError(t, err)
	}
	if s := os.Getenv("WORLDS"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	t.Logf("worlds %d to %d; SEED=%[1]d repeats them", first, first+uint64(n)-1)
	quirks := registrytest.BulkAPI{PageLimit: 2}
	sites := []*site{
		newSite(t), newSite(t, registrytest.WithReferrersAPI(2)),
		newSite(t, registrytest.WithQuayAPI(quirks)), newSite(t, registrytest.WithHarborAPI(quirks)),
	}
	sites[2].quays = []string{sites[2].to.Host()}
	sites[3].harbors = []string{sites[3].to.Host()}
	exact := 0
	seeds := slices.Clone(failed)
	for i := range uint64(n) {
		seeds = append(seeds, first+i)
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("SEED=%d", seed), func(t *testing.T) {
			if agree(t, newWorld(t, seed, sites[seed%uint64(len(sites))])) {
				exact++
			}
		})
	}
	t.Logf("in %d worlds the forecast could be exact", exact)
	require.True(t, t.Failed() || n < worlds || exact > n/3)
}

// site is a source and a destination, which all worlds share.
type site struct {
	from, to      *registrytest.Registry
	client        *registry.Client
	withoutPulls  *registry.Client
	comparingOnly *registry.Client
	quays         []string // destinations with Quay's API
	harbors       []string // and as Harbor
	log           *slog.Logger
}

func newSite(t *testing.T, options ...registrytest.Option) *site {
	s := &site{log: slog.New(slog.DiscardHandler), from: registrytest.New(t, options...), to: registrytest.New(t, options...)}
	insecure := []string{s.from.Host(), s.to.Host()}
	network := registry.NewTransport(insecure, registry.DefaultStall)
	s.client = registry.NewClient(registry.Options{Insecure: insecure, Transport: network})
	s.withoutPulls = registry.NewClient(registry.Options{Insecure: insecure, Transport: check.WithoutPulls(network)})
	s.comparingOnly = registry.NewClient(registry.Options{Insecure: insecure, Transport: network}).Comparing()
	return s
}

// upstream returns a resolver for the sources and for destinations with an API of their own.
func (s *site) upstream(client *registry.Client) *resolve.Upstream {
	return &resolve.Upstream{Registry: client, Listing: listing.New(listing.Options{
		Registry: client, QuayHosts: s.quays, HarborHosts: s.harbors, Log: s.log,
	})}
}

// agree requires that the forecasts and the runs of a world agree. It reports whether the forecast
// could know everything without a pull.
func agree(t *testing.T, w *world) (exact bool) {
	for _, r := range w.entries {
		t.Logf("%s:%s@%s %+v", r.Source, r.Tag, r.Digest, r.Selection)
	}
	notes := &notes{Memory: comparetest.Memory{SightedTags: w.seen}}
	forecast := w.forecast(t, notes)
	require.Zero(t, forecast.Failed)
	w.from.ResetRequests()
	done := w.run(t, notes)
	got := done.images
	t.Logf("forecast: %+v\nrun: %+v, %d pulls, %d GETs, absent: %v", forecast, got, done.pulls, w.from.Pulls(), notes.AbsentImages)
	require.Zero(t, got.Vanished)
	require.Equal(t, forecast.Rejected, got.Failed)
	require.Equal(t, got.Total, got.Ended())

	// Only a pull shows that an image has no wanted platform: the run skips it, instead of copying
	// or tagging it, and does not mirror its companions. And only a pull shows the images in an
	// index that the destination lacks: the run also mirrors their companions.
	absent := got.Skipped - forecast.Skipped
	hidden := got.Total - (forecast.Copy + forecast.Tag + forecast.Unchanged + forecast.Skipped + forecast.Kept + forecast.Waiting + forecast.Rejected)
	within := func(least, got, most int) {
		t.Helper()
		require.GreaterOrEqual(t, got, least)
		require.LessOrEqual(t, got, most)
	}
	require.True(t, absent == 0 || absent > 0 && w.lacking && forecast.Pulls > 0)
	require.Equal(t, []int{forecast.Kept, forecast.Waiting}, []int{got.Kept, got.Waiting})
	require.True(t, hidden == 0 || w.accompanied && (absent > 0 || forecast.PullsAtLeast))
	if absent == 0 || !w.accompanied {
		within(forecast.Unchanged, got.Unchanged, forecast.Unchanged+hidden)
		within(forecast.Copy-absent, got.Copied, forecast.Copy-len(notes.AbsentImages)+hidden)
		within(forecast.Tag-absent, got.Tagged, forecast.Tag+hidden)
	}
	if absent == 0 && !forecast.PullsAtLeast {
		require.Equal(t, forecast.Pulls, done.pulls)
	}

	again := w.forecast(t, notes)
	require.Zero(t, again.Copy+again.Tag+again.Referrers+again.Failed, "%+v", again)
	// An immutable tag is not looked up, and neither are companions below its index. Companions of
	// a waiting image may come with an index that lists the image; the next run sees them.
	within(0, again.Waiting, got.Waiting)
	if !w.accompanied || got.Waiting == 0 {
		require.Equal(t, got.Waiting, again.Waiting)
		within(0, again.Unchanged, got.Copied+got.Tagged+got.Unchanged)
		require.True(t, w.fixed && w.accompanied || again.Unchanged == got.Copied+got.Tagged+got.Unchanged)
	}
	require.Equal(t, []int{got.Skipped, got.Kept, got.Failed}, []int{again.Skipped, again.Kept, again.Rejected})
	w.to.ResetRequests()
	quiet := w.run(t, notes)
	require.Equal(t, run.Tally{
		Total:     again.Unchanged + again.Skipped + again.Kept + again.Waiting + again.Rejected,
		Unchanged: again.Unchanged, Skipped: again.Skipped, Kept: again.Kept, Waiting: again.Waiting, Failed: again.Rejected,
	}, quiet.images)
	require.Zero(t, quiet.pulls)
	require.Zero(t, w.to.Count(registrytest.Kinds(registrytest.KindManifestPut)))
	return absent == 0 && hidden == 0
}

// forecast returns the totals of a check.
func (w *world) forecast(t *testing.T, n *notes) check.Totals {
	t.Helper()
	upstream := w.upstream(w.withoutPulls)
	c := &check.Checker{
		Resolver: upstream,
		Mirror:   mirror.NewComparing(w.withoutPulls, w.comparingOnly, upstream.Listing, mirrortest.Limited),
		Notes:    n,
		Backoff:  func(int) time.Duration { return 0 },
	}
	if w.distrusting {
		c.Verify = func(ctx context.Context, source reference.Repository, digest reference.Digest, tags []reference.Tag) (int, []error) {
			return distrust{}.Verify(ctx, source, digest, tags, nil)
		}
	}
	report, err := c.Check(t.Context(), w.entries)
	require.NoError(t, err)
	return report.Totals
}

// run mirrors the list.
func (w *world) run(t *testing.T, n *notes) *observed {
	t.Helper()
	o, result := w.deliver(t, n)
	require.Empty(t, result.Left)
	require.Len(t, n.failures, o.images.Failed)
	n.failures = nil
	return o
}

// deliver delivers the list to a worker once.
func (w *world) deliver(t *testing.T, n *notes) (*observed, chunk.Result) {
	t.Helper()
	worker, err := chunk.New(chunk.Parts{
		Connect: func(context.Context, message.Chunk) (resolve.Resolver, *mirror.Mirror, error) {
			upstream := w.upstream(w.client)
			m := mirrortest.New(t, w.client, nil)
			m.Listing = upstream.Listing
			if w.distrusting {
				m.Trust = distrust{}
			}
			return upstream, m, nil
		},
		Failures: n, Notes: n, Registries: n, Concurrency: 4, MaxAttempts: 2, Alone: true,
		Backoff:   func(int) time.Duration { return 0 },
		Deletions: deletion.NewHosts(nil, nil),
		Log:       slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	o := &observed{}
	c := message.Chunk{Name: "default", Run: "1", Number: 1, Registry: w.from.Host(), Repositories: w.entries}
	result, err := worker.Do(t.Context(), t.Context(), chunk.Delivery{Chunk: c, Fresh: true, Observer: o})
	require.NoError(t, err)
	return o, result
}

// observed is what a run has done.
type observed struct {
	mu     sync.Mutex
	images run.Tally
	pulls  int
}

func (o *observed) Image(string, run.Outcome) {}

// Seen implements chunk.Observer.
func (*observed) Seen(message.Repository, catalog.Tag) {}

func (*observed) Unlisted(context.Context, message.Repository, []reference.Tag) []reference.Tag {
	return nil
}

func (*observed) Known(context.Context, message.Repository) ([]catalog.Tag, error) { return nil, nil }

func (*observed) Listed(message.Repository, holding.Listing) {}

func (o *observed) Changed([]change.Change) {}

func (o *observed) Progress(images run.Tally, pulls int, _ int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.images, o.pulls = images, pulls
}

func (o *observed) Copying(string, string, *meter.Meter) func() { return func() {} }

func (o *observed) Compared() {}

// notes keeps notes and failures in memory, as a fleet does at the broker. No registry is ever
// closed.
type notes struct {
	comparetest.Memory

	mu       sync.Mutex
	failures []failure.Image
}

func (n *notes) Resolved(context.Context, message.Chunk, message.Repository) error { return nil }

func (n *notes) Superseded(context.Context, message.Chunk, message.Repository) (bool, error) {
	return false, nil
}

func (n *notes) Add(_ context.Context, _ string, r failure.Record) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failures = append(n.failures, r.Images...)
	return nil
}

func (n *notes) Any(context.Context, string, string) (bool, error) { return false, nil }

func (n *notes) Subtract(context.Context, string, string, string, func(string) bool) (int, error) {
	return 0, nil
}

func (n *notes) Open(context.Context, ...reference.Repository) (bool, error) { return false, nil }

func (n *notes) Blames(context.Context, error) error { return nil }

func (n *notes) Known(_, _ reference.Repository, _ reference.Digest) {}
