package chunk

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
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

const (
	repository  = "osism/tool"
	destination = "mirror/" + repository
	attempts    = 3
	// hurry is how long a request waits for a registry while it hangs.
	hurry = 700 * time.Millisecond
)

var (
	heads     = registrytest.Kinds(registrytest.KindManifestHead)
	gets      = registrytest.Kinds(registrytest.KindManifestGet)
	manifests = registrytest.Kinds(registrytest.KindManifestHead, registrytest.KindManifestGet)
	puts      = registrytest.Kinds(registrytest.KindManifestPut)
	lists     = registrytest.Kinds(registrytest.KindTags)
	blobs     = registrytest.Kinds(registrytest.KindBlobGet)
)

// harness is a worker between two registries, and records what the worker reports.
type harness struct {
	*Worker
	comparetest.Memory
	Resolver resolve.Resolver
	Mirror   *mirror.Mirror
	from, to *registrytest.Registry
	kept     *keeper
	newest   string // the run that has resolved everything last
	advanced atomic.Int64

	mu       sync.Mutex
	images   run.Tally
	pulls    int
	bytes    int64
	outcomes map[string]int
	copies   map[string]*meter.Meter
	ended    []string // of the copies
	changes  []change.Change
	tags     []catalog.Tag
	listings []catalog.Tag
	meant    []holding.Listing
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	return newHarnessBetween(t, registrytest.New(t), registrytest.New(t))
}

func newHarnessBetween(t *testing.T, from, to *registrytest.Registry) *harness {
	t.Helper()
	b := &harness{from: from, to: to, kept: &keeper{records: map[string]failure.Image{}}}
	insecure := []string{b.from.Host(), b.to.Host()}
	client := registry.NewClient(registry.Options{Insecure: insecure, Transport: registrytest.NewTransport(hurry, b.from, b.to)})
	b.Resolver = &resolve.Upstream{Registry: client, Listing: listing.New(listing.Options{Registry: client})}
	b.Mirror = mirrortest.New(t, client, engine(t, insecure, 10*time.Second))
	var err error
	b.Worker, err = New(Parts{
		Connect: func(context.Context, message.Chunk) (resolve.Resolver, *mirror.Mirror, error) {
			return b.Resolver, b.Mirror, nil
		},
		Failures:    b.kept,
		Notes:       b,
		Registries:  &fleet{},
		Concurrency: 4,
		MaxAttempts: attempts,
		Backoff:     func(int) time.Duration { return 0 },
		Deletions:   deletion.NewHosts(nil, nil),
		Log:         slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	b.now = func() time.Time { return time.Now().Add(time.Duration(b.advanced.Load())) }
	return b
}

func (b *harness) Resolved(_ context.Context, c message.Chunk, _ message.Repository) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.newest = max(b.newest, c.Run)
	return nil
}

func (b *harness) Superseded(_ context.Context, c message.Chunk, _ message.Repository) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.newest > c.Run, nil
}

func (b *harness) Image(_ string, o run.Outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outcomes[string(o)]++
}

func (b *harness) Copying(image, destination string, moved *meter.Meter) func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.copies == nil {
		b.copies = map[string]*meter.Meter{}
	}
	name := image + " to " + destination
	b.copies[name] = moved
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.ended = append(b.ended, name)
	}
}

func (b *harness) Compared() {}

func (b *harness) Progress(images run.Tally, pulls int, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.images, b.pulls, b.bytes = images, pulls, bytes
}

// push puts an image under each tag at the source.
func (b *harness) push(t *testing.T, tags ...string) {
	t.Helper()
	for _, tag := range tags {
		b.move(t, tag, tag)
	}
}

// move puts another image under a tag of the source, and returns its digest.
func (b *harness) move(t *testing.T, tag, version string) string {
	t.Helper()
	digest, err := b.from.PushImage(repository, tag, registrytest.Image{Version: version})
	require.NoError(t, err)
	return digest
}

// entry returns the repository as an entry of a list; without a tag, the whole repository.
func (b *harness) entry(tag string) message.Repository {
	r := message.Repository{
		Source:      reference.MustRepository(b.from.Host() + "/" + repository),
		Destination: reference.MustRepository(b.to.Host() + "/" + destination),
	}
	if tag != "" {
		r.Tag = reference.MustTag(tag)
	}
	return r
}

func (b *harness) chunk(entries ...message.Repository) message.Chunk {
	return message.Chunk{Name: "default", Run: "2", Number: 1, Registry: b.from.Host(), Repositories: entries}
}

// do works a fresh chunk off.
func (b *harness) do(t *testing.T, entries ...message.Repository) Result {
	t.Helper()
	return b.deliver(t, Delivery{Chunk: b.chunk(entries...), Fresh: true})
}

// doAgain works off a chunk, and then the images that are tried a second time because a registry
// has refused them.
func (b *harness) doAgain(t *testing.T, entries ...message.Repository) Result {
	t.Helper()
	result := b.do(t, entries...)
	if result.After != secondLook {
		return result
	}
	return b.deliver(t, Delivery{Chunk: b.chunk(result.Left...), Remainder: true})
}

// Seen implements Observer.
func (h *harness) Seen(_ message.Repository, tag catalog.Tag) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if tag.Name.IsZero() {
		h.listings = append(h.listings, tag)
		return
	}
	h.tags = append(h.tags, tag)
}

// Unlisted implements Observer.
func (h *harness) Unlisted(_ context.Context, _ message.Repository, listed []reference.Tag) []reference.Tag {
	h.mu.Lock()
	defer h.mu.Unlock()
	var gone []reference.Tag
	for _, t := range h.tags {
		if !slices.Contains(listed, t.Name) {
			gone = append(gone, t.Name)
		}
	}
	return gone
}

// Known implements Observer.
func (h *harness) Known(context.Context, message.Repository) ([]catalog.Tag, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.tags), nil
}

// Listed implements Observer.
func (h *harness) Listed(_ message.Repository, listing holding.Listing) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.meant = append(h.meant, listing)
}

// Changed implements Observer.
func (b *harness) Changed(changes []change.Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changes = append(b.changes, changes...)
}

// deliver works off a delivery, and requires that its numbers add up.
func (b *harness) deliver(t *testing.T, d Delivery) Result {
	t.Helper()
	return b.deliverWithin(t, t.Context(), d)
}

func (b *harness) deliverWithin(t *testing.T, work context.Context, d Delivery) Result {
	t.Helper()
	b.outcomes = map[string]int{}
	d.Observer = b
	result, err := b.Do(t.Context(), work, d)
	require.NoError(t, err)
	require.Equal(t, b.images.Total, b.images.Ended(), "what is left is counted by whoever gets it: %+v", b.images)
	require.Equal(t, map[string]int{"copied": b.images.Copied, "tagged": b.images.Tagged, "unchanged": b.images.Unchanged,
		"skipped": b.images.Skipped, "vanished": b.images.Vanished, "kept": b.images.Kept, "waiting": b.images.Waiting, "failed": b.images.Failed}, withZeros(b.outcomes))
	return result
}

func withZeros(outcomes map[string]int) map[string]int {
	for _, o := range []string{"copied", "tagged", "unchanged", "skipped", "vanished", "kept", "waiting", "failed"} {
		outcomes[o] += 0
	}
	return outcomes
}

// mirrored requires that the tags at the destination are those of the source.
func (b *harness) mirrored(t *testing.T, tags ...string) {
	t.Helper()
	for _, tag := range tags {
		want, err := b.from.Digest(repository, tag)
		require.NoError(t, err)
		got, err := b.to.Digest(destination, tag)
		require.NoError(t, err)
		require.Equal(t, want, got, tag)
		require.NoError(t, b.to.Check(destination, tag))
	}
}

// keeper keeps failures in memory.
type keeper struct {
	mu      sync.Mutex
	records map[string]failure.Image
	writes  int
	broken  error
}

func (k *keeper) Add(_ context.Context, _ string, r failure.Record) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.broken != nil {
		return k.broken
	}
	k.writes++
	for _, i := range r.Images {
		k.records[i.Source] = i
	}
	return nil
}

func (k *keeper) Any(context.Context, string, string) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.records) > 0, nil
}

func (k *keeper) Subtract(_ context.Context, _, _, _ string, mirrored func(string) bool) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := len(k.records)
	for source := range k.records {
		if mirrored(source) {
			delete(k.records, source)
		}
	}
	return before - len(k.records), nil
}

// only returns the one failure there is.
func (k *keeper) only(t *testing.T) failure.Image {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	require.Len(t, k.records, 1)
	for _, i := range k.records {
		return i
	}
	return failure.Image{}
}
