package resolve_test

import (
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
)

const repository = "osism/tool"

var (
	heads = registrytest.Kinds(registrytest.KindManifestHead)
	lists = registrytest.Kinds(registrytest.KindTags)

	manifests = registrytest.Kinds(registrytest.KindManifestHead, registrytest.KindManifestGet)
)

func newResolver(t *testing.T, options ...registrytest.Option) (*resolve.Upstream, *registrytest.Registry, message.Repository) {
	t.Helper()
	r := registrytest.New(t, options...)
	client := registry.NewClient(registry.Options{Insecure: []string{r.Host()}})
	return &resolve.Upstream{Registry: client, Listing: listing.New(listing.Options{Registry: client})}, r, message.Repository{Source: reference.MustRepository(r.Host() + "/" + repository)}
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
		tags = append(tags, i.Tag.String())
	}
	return tags
}

// TestWholeRepository: the tags of short pages are found, each once, even if a page repeats some.
// Only a tag that HEAD answers with "not found" takes a pull.
func TestWholeRepository(t *testing.T) {
	o, r, wanted := newResolver(t, registrytest.WithTagPage(2))
	push(t, r, "1", "2", "3", "4", "5")
	gone := registrytest.All(manifests, registrytest.Ref("3"))
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

	found, err := o.Resolve(t.Context(), wanted, resolve.Known{})
	require.NoError(t, err)
	require.Equal(t, []string{"1", "2", "4", "5"}, tagsOf(found.Images))
	require.Equal(t, []reference.Tag{reference.MustTag("3")}, found.Vanished)
	require.Empty(t, found.Missed)
	require.Equal(t, 1, found.Pulls, "to see that it is gone")
	require.Equal(t, 1, r.Pulls())
	require.Equal(t, 5, r.Count(heads))
	for _, i := range found.Images {
		digest, err := r.Digest(repository, i.Tag.String())
		require.NoError(t, err)
		require.Equal(t, message.Image{Tag: i.Tag, Digest: reference.MustDigest(digest), MediaType: string(types.OCIManifestSchema1)}, i)
	}
}

// TestUnselected: a selection that matches no tag is reported, but is not an error.
func TestUnselected(t *testing.T) {
	o, r, wanted := newResolver(t)
	push(t, r, "1.0.0", "2.0.0")
	for _, s := range []selection.Selection{{Include: []string{"v9"}}, {Semver: ">=3"}, {Semver: ">=3", Limit: 1}, {Exclude: []string{".*"}}} {
		wanted.Selection = &s
		found, err := o.Resolve(t.Context(), wanted, resolve.Known{})
		require.NoError(t, err)
		require.Equal(t, "FILTER, or the tags of the entry, match none of 2 tags", found.Unselected)
		require.Empty(t, found.Images)
	}
	for _, s := range []selection.Selection{{}, {Include: []string{"2"}}, {Limit: 1}} {
		wanted.Selection = &s
		found, err := o.Resolve(t.Context(), wanted, resolve.Known{})
		require.NoError(t, err)
		require.Empty(t, found.Unselected)
	}
	defer r.Inject(registrytest.Fault{Match: lists, Status: 200, Body: `{"tags":[]}`})()
	found, err := o.Resolve(t.Context(), wanted, resolve.Known{})
	require.NoError(t, err)
	require.Equal(t, "the registry lists no tags", found.Unselected)
}

func TestTagAndDigest(t *testing.T) {
	o, r, wanted := newResolver(t)
	push(t, r, "1", "2")
	digest, err := r.Digest(repository, "1")
	require.NoError(t, err)

	wanted.Tag = reference.MustTag("1")
	found, err := o.Resolve(t.Context(), wanted, resolve.Known{})
	require.NoError(t, err)
	require.Equal(t, []message.Image{{Tag: reference.MustTag("1"), Digest: reference.MustDigest(digest), MediaType: string(types.OCIManifestSchema1)}}, found.Images)
	require.Zero(t, r.Count(lists))

	wanted.Tag = reference.MustTag("3")
	_, err = o.Resolve(t.Context(), wanted, resolve.Known{})
	require.ErrorIs(t, err, registry.ErrNotFound)
	_, err = o.Resolve(t.Context(), message.Repository{Source: reference.MustRepository(r.Host() + "/no/such")}, resolve.Known{})
	require.ErrorIs(t, err, registry.ErrNotFound)

	r.ResetRequests()
	wanted.Tag, wanted.Digest = reference.MustTag("2"), reference.MustDigest(digest)
	found, err = o.Resolve(t.Context(), wanted, resolve.Known{})
	require.NoError(t, err)
	require.Equal(t, []message.Image{{Tag: reference.MustTag("2"), Digest: reference.MustDigest(digest)}}, found.Images)
	require.Empty(t, r.Requests(), "the list has said it all")
}

// TestPullsOfARegistryWithoutDigests: if HEAD returns no digest, each tag takes a pull, which is
// counted.
func TestPullsOfARegistryWithoutDigests(t *testing.T) {
	o, r, wanted := newResolver(t, registrytest.WithoutDigestHeader())
	push(t, r, "1", "2")
	found, err := o.Resolve(t.Context(), wanted, resolve.Known{})
	require.NoError(t, err)
	require.Len(t, found.Images, 2)
	require.Equal(t, 2, found.Pulls)
	require.Equal(t, 2, r.Pulls())
}

// TestOneTagDoesNotHideTheOthers: whatever is wrong with a tag, the other tags are found.
func TestOneTagDoesNotHideTheOthers(t *testing.T) {
	bad := registrytest.All(manifests, registrytest.Ref("2"))
	for name, fault := range map[string]registrytest.Fault{
		"500":           {Match: bad, Status: 500},
		"reset":         {Match: bad, Reset: true},
		"403":           {Match: bad, Status: 403},
		"nothing":       {Match: bad, Status: 200},
		"a page":        {Match: bad, Status: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<html>Welcome</html>"},
		"no manifest":   {Match: bad, Status: 200, Body: "{}"},
		"broken":        {Match: bad, Status: 200, Body: `{"schemaVersion":2,"manifests":7}`},
		"other content": {Match: bad, Status: 200, Body: "{}", Header: http.Header{"Docker-Content-Digest": {"sha256:" + strings.Repeat("1", 63)}}},
		"cut":           {Match: registrytest.All(bad, registrytest.Kinds(registrytest.KindManifestGet)), TruncateBody: true},
	} {
		for selected, s := range map[string]*selection.Selection{
			"": nil, ", listed": {List: []string{"1", "2", "3"}}, ", filtered": {Include: []string{"."}},
			", limited": {Limit: 3}, ", versions": {Semver: ">=1"},
		} {
			t.Run(name+selected, func(t *testing.T) {
				o, r, wanted := newResolver(t, registrytest.WithoutDigestHeader())
				wanted.Selection = s
				push(t, r, "1", "2", "3")
				defer r.Inject(fault)()
				found, err := o.Resolve(t.Context(), wanted, resolve.Known{})
				require.NoError(t, err)
				require.ElementsMatch(t, []string{"1", "3"}, tagsOf(found.Images))
				require.Len(t, found.Missed, 1)
				require.Equal(t, "2", found.Missed[0].Tag.String())
				require.ErrorContains(t, found.Missed[0].Err, repository+":2: ")
			})
		}
	}
}

// TestRegistryThatIsAway: if a registry does not answer, or stops answering, it gets no more
// requests after a while.
func TestRegistryThatIsAway(t *testing.T) {
	const tags = 500
	for name, test := range map[string]struct {
		until  string // the last tag that has an answer
		images int    // at most
	}{"from the start": {}, "in the middle": {until: "099", images: 100}} {
		t.Run(name, func(t *testing.T) {
			o, r, wanted := newResolver(t)
			require.NoError(t, r.AddSynthetic(repository, registrytest.Synthetic{Tags: registrytest.Numbered("%03d", tags)}))
			away := func(q registrytest.Request) bool { return heads(q) && q.Reference > test.until }
			defer r.Inject(registrytest.Fault{Match: away, Reset: true})()
			found, err := o.Resolve(t.Context(), wanted, resolve.Known{})
			require.Less(t, r.Count(heads), 200)
			if test.until == "" {
				require.ErrorIs(t, err, registry.ErrUnavailable)
				return
			}
			require.NoError(t, err)
			require.LessOrEqual(t, len(found.Images), test.images)
			require.Greater(t, len(found.Images), test.images-16, "but for those that were under way")
			require.Len(t, found.Missed, tags-len(found.Images))
			for _, m := range found.Missed {
				require.ErrorIs(t, m.Err, registry.ErrUnavailable)
			}
		})
	}
}

// TestHEADLies: if HEAD answers "not found", a GET decides, both for listed tags and for tags that
// the list names.
func TestHEADLies(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{"until a GET": {registrytest.WithHeadAfterGet()}, "always": nil} {
		t.Run(name, func(t *testing.T) {
			o, r, wanted := newResolver(t, options...)
			push(t, r, "1", "2")
			if options == nil {
				defer r.Inject(registrytest.Fault{Match: heads, Status: 404})()
			}
			for _, w := range []message.Repository{wanted, {Source: wanted.Source, Tag: reference.MustTag("1")}, {Source: wanted.Source, Selection: &selection.Selection{List: []string{"1", "2"}}}} {
				r.ResetRequests()
				found, err := o.Resolve(t.Context(), w, resolve.Known{})
				require.NoError(t, err)
				require.NotEmpty(t, found.Images)
				require.Empty(t, found.Missed)
				require.Empty(t, found.Vanished)
				require.Equal(t, r.Pulls(), found.Pulls)
			}
		})
	}
}

// TestLimited: after a 429, the registry gets no more requests, and earlier answers are used.
func TestLimited(t *testing.T) {
	o, r, wanted := newResolver(t)
	require.NoError(t, r.AddSynthetic(repository, registrytest.Synthetic{Tags: registrytest.Numbered("%03d", 500)}))
	defer r.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref("100")), Status: 429})()
	found, err := o.Resolve(t.Context(), wanted, resolve.Known{})
	require.NoError(t, err)
	require.Equal(t, 500, len(found.Images)+len(found.Missed))
	require.GreaterOrEqual(t, len(found.Images), 100-16)
	require.Less(t, r.Count(heads), 200)
	for _, m := range found.Missed {
		require.ErrorIs(t, m.Err, registry.ErrLimited)
	}
}

// TestMemory: for 20,000 tags, a worker keeps their names and digests in memory, and little else.
// The numbers include the registry, which is in the same process.
func TestMemory(t *testing.T) {
	const tags, most = 20_000, 100 << 20
	defer debug.SetGCPercent(debug.SetGCPercent(100)) // the default
	o, r, wanted := newResolver(t)
	require.NoError(t, r.AddSynthetic(repository, registrytest.Synthetic{Tags: registrytest.Numbered("v1.%06d", tags)}))
	found, err := o.Resolve(t.Context(), wanted, resolve.Known{})
	require.NoError(t, err)
	require.Len(t, found.Images, tags)
	r.ResetRequests()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("%d MiB are in use", m.HeapInuse>>20)
	require.Less(t, m.HeapInuse, uint64(most), "after the work, before any collection")
	runtime.GC()
	runtime.ReadMemStats(&m)
	t.Logf("%d MiB are live, %d MiB were taken from the system", m.HeapAlloc>>20, m.HeapSys>>20)
	require.Less(t, m.HeapAlloc, uint64(most/2))
	runtime.KeepAlive(found)
}
