package resolve_test

import (
	"net/http"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
)

const repository = "osism/tool"

var (
	heads = registrytest.Kinds(registrytest.KindManifestHead)
	lists = registrytest.Kinds(registrytest.KindTags)
)

func newResolver(t *testing.T, options ...registrytest.Option) (*resolve.Upstream, *registrytest.Registry, message.Repository) {
	t.Helper()
	r := registrytest.New(t, options...)
	client := registry.NewClient(registry.Options{Insecure: []string{r.Host()}})
	return &resolve.Upstream{Registry: client, Listing: listing.New(listing.Options{Registry: client})}, r, message.Repository{Source: r.Host() + "/" + repository}
}

func push(t *testing.T, r *registrytest.Registry, tags ...string) {
	t.Helper()
	for _, tag := range tags {
		_, err := r.PushImage(repository, tag, registrytest.Image{Version: tag})
		require.NoError(t, err)
	}
}

func tagsOf(images []message.Image) []string {
	var tags []string
	for _, i := range images {
		tags = append(tags, i.Tag)
	}
	return tags
}

// TestWholeRepository: over short pages, each tag once though one was listed twice,
// without a pull, and without what was gone by the time of its HEAD.
func TestWholeRepository(t *testing.T) {
	o, r, wanted := newResolver(t, registrytest.WithTagPage(2))
	push(t, r, "1", "2", "3", "4", "5")
	gone := registrytest.All(heads, registrytest.Ref("3"))
	defer r.Inject(registrytest.Fault{Match: gone, Status: 404})()
	// The second page begins with the end of the first.
	asked := 0
	second := func(q registrytest.Request) bool {
		if lists(q) {
			asked++
		}
		return lists(q) && asked == 2
	}
	defer r.Inject(registrytest.Fault{Match: second, Status: 200, Body: `{"tags":["2","3","4"]}`,
		Header: http.Header{"Link": {`</v2/` + repository + `/tags/list?n=2&last=4>; rel="next"`}}})()

	found, err := o.Resolve(t.Context(), wanted)
	require.NoError(t, err)
	require.Equal(t, []string{"1", "2", "4", "5"}, tagsOf(found.Images))
	require.Equal(t, 1, found.Skipped)
	require.Empty(t, found.Missed)
	require.Zero(t, found.Pulls)
	require.Zero(t, r.Pulls())
	require.Equal(t, 5, r.Count(heads))
	for _, i := range found.Images {
		digest, err := r.Digest(repository, i.Tag)
		require.NoError(t, err)
		require.Equal(t, message.Image{Tag: i.Tag, Digest: digest, MediaType: string(types.OCIManifestSchema1)}, i)
	}
}

func TestTagAndDigest(t *testing.T) {
	o, r, wanted := newResolver(t)
	push(t, r, "1", "2")
	digest, err := r.Digest(repository, "1")
	require.NoError(t, err)

	wanted.Tag = "1"
	found, err := o.Resolve(t.Context(), wanted)
	require.NoError(t, err)
	require.Equal(t, []message.Image{{Tag: "1", Digest: digest, MediaType: string(types.OCIManifestSchema1)}}, found.Images)
	require.Zero(t, r.Count(lists))

	wanted.Tag = "3"
	_, err = o.Resolve(t.Context(), wanted)
	require.ErrorIs(t, err, registry.ErrNotFound)
	_, err = o.Resolve(t.Context(), message.Repository{Source: r.Host() + "/no/such"})
	require.ErrorIs(t, err, registry.ErrNotFound)

	r.ResetRequests()
	wanted.Tag, wanted.Digest = "2", digest
	found, err = o.Resolve(t.Context(), wanted)
	require.NoError(t, err)
	require.Equal(t, []message.Image{{Tag: "2", Digest: digest}}, found.Images)
	require.Empty(t, r.Requests(), "the list has said it all")
}

// TestPullsOfARegistryWithoutDigests: they are counted, because they cost.
func TestPullsOfARegistryWithoutDigests(t *testing.T) {
	o, r, wanted := newResolver(t, registrytest.WithoutDigestHeader())
	push(t, r, "1", "2")
	found, err := o.Resolve(t.Context(), wanted)
	require.NoError(t, err)
	require.Len(t, found.Images, 2)
	require.Equal(t, 2, found.Pulls)
	require.Equal(t, 2, r.Pulls())
}

// TestOneTagDoesNotHideTheOthers, unless the registry does not answer at all.
func TestOneTagDoesNotHideTheOthers(t *testing.T) {
	o, r, wanted := newResolver(t)
	push(t, r, "1", "2", "3")
	bad := registrytest.All(heads, registrytest.Ref("2"))
	remove := r.Inject(registrytest.Fault{Match: bad, Status: 500})
	found, err := o.Resolve(t.Context(), wanted)
	require.NoError(t, err)
	require.Equal(t, []string{"1", "3"}, tagsOf(found.Images))
	require.Len(t, found.Missed, 1)
	require.Equal(t, "2", found.Missed[0].Tag)
	require.ErrorIs(t, found.Missed[0].Err, registry.ErrUnavailable)

	remove()
	defer r.Inject(registrytest.Fault{Match: bad, Reset: true})()
	_, err = o.Resolve(t.Context(), wanted)
	require.ErrorIs(t, err, registry.ErrUnavailable)
}

// TestLimited: a registry that has had enough is asked no more, and what it has told
// is not lost.
func TestLimited(t *testing.T) {
	o, r, wanted := newResolver(t)
	require.NoError(t, r.AddSynthetic(repository, registrytest.Synthetic{Tags: registrytest.Numbered("%03d", 500)}))
	defer r.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref("100")), Status: 429})()
	found, err := o.Resolve(t.Context(), wanted)
	require.NoError(t, err)
	require.Equal(t, 500, len(found.Images)+len(found.Missed))
	require.GreaterOrEqual(t, len(found.Images), 100-16)
	require.Less(t, r.Count(heads), 200)
	for _, m := range found.Missed {
		require.ErrorIs(t, m.Err, registry.ErrLimited)
	}
}

// TestMemory: of 50,000 tags a worker keeps their names and digests, and little more
// meanwhile. The registry is in the same process, so its share is in the numbers.
func TestMemory(t *testing.T) {
	const tags, most = 50_000, 150 << 20
	o, r, wanted := newResolver(t)
	require.NoError(t, r.AddSynthetic(repository, registrytest.Synthetic{Tags: registrytest.Numbered("v1.%06d", tags)}))
	found, err := o.Resolve(t.Context(), wanted)
	require.NoError(t, err)
	require.Len(t, found.Images, tags)
	r.ResetRequests()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	require.Less(t, m.HeapInuse, uint64(most), "after the work, before any collection")
	runtime.GC()
	runtime.ReadMemStats(&m)
	t.Logf("%d MiB are live, %d MiB were taken from the system", m.HeapAlloc>>20, m.HeapSys>>20)
	require.Less(t, m.HeapAlloc, uint64(most/2))
	runtime.KeepAlive(found)
}
