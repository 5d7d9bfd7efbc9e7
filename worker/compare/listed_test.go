package compare_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// listed is a world whose destination lists digests.
type listed struct {
	*world
	log *bytes.Buffer
}

var (
	list  = registrytest.Kinds(registrytest.KindBulkList)
	heads = registrytest.Kinds(registrytest.KindManifestHead)
)

// apis are the destinations that list digests.
var apis = map[string]func(registrytest.BulkAPI) registrytest.Option{
	"quay": registrytest.WithQuayAPI, "harbor": registrytest.WithHarborAPI,
}

// withLists calls test for a destination with each API.
func withLists(t *testing.T, quirks registrytest.BulkAPI, test func(*testing.T, listed)) {
	for name, api := range apis {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, api(quirks))
			if name == "quay" {
				s.quays = []string{s.to.Host()}
			} else {
				s.harbors = []string{s.to.Host()}
			}
			l := listed{&world{site: s, t: t, name: name}, new(bytes.Buffer)}
			s.log = slog.New(slog.NewTextHandler(l.log, nil))
			test(t, l)
		})
	}
}

// add pushes n images to the source, and lists the repository.
func (l listed) add(repository string, n int) {
	for i := range n {
		_, err := l.from.PushImage(repository, fmt.Sprint(i), registrytest.Image{Version: fmt.Sprint(repository, i), Layers: base})
		require.NoError(l.t, err)
	}
	l.entries = append(l.entries, message.Repository{
		Source:      reference.MustRepository(l.from.Host() + "/" + repository),
		Destination: reference.MustRepository(l.to.Host() + "/mirror/deep/" + repository),
	})
}

// mirror pushes these images to the destination.
func (l listed) mirror(repository string, n int) {
	for i := range n {
		_, err := l.to.PushImage("mirror/deep/"+repository, fmt.Sprint(i), registrytest.Image{Version: fmt.Sprint(repository, i), Layers: base})
		require.NoError(l.t, err)
	}
}

// again runs the list once more, and returns the requests to the destination.
func (l listed) again(t *testing.T) (done run.Tally, lists, headed, others int) {
	t.Helper()
	l.to.ResetRequests()
	done = l.run(t, &notes{}).images
	others = l.to.Count(func(r registrytest.Request) bool {
		return !list(r) && !heads(r) && r.Kind != registrytest.KindPing && r.Kind != registrytest.KindToken
	})
	return done, l.to.Count(list), l.to.Count(heads), others
}

// TestListedDestination: a no-op takes one request for each 100 tags of a repository.
func TestListedDestination(t *testing.T) {
	withLists(t, registrytest.BulkAPI{}, func(t *testing.T, l listed) {
		l.add("small", 5)
		l.add("hundred", 100)
		l.add("more", 130)
		l.mirror("hundred", 100)
		l.mirror("more", 130)
		l.run(t, &notes{})
		require.Empty(t, l.log.String(), "a missing repository is no reason for a warning")
		forecast := l.forecast(t, &notes{})
		require.Equal(t, 235, forecast.Unchanged, "%+v", forecast)
		done, lists, heads, others := l.again(t)
		require.Equal(t, run.Tally{Total: 235, Unchanged: 235}, done)
		require.Equal(t, []int{4, 0, 0}, []int{lists, heads, others})
		require.Empty(t, l.log.String())
	})
}

// TestListedChanges: only tags that the list does not show as up to date are looked up, and copied
// if they have changed. An outdated list changes nothing.
func TestListedChanges(t *testing.T) {
	withLists(t, registrytest.BulkAPI{}, func(t *testing.T, l listed) {
		l.add("a", 10)
		l.run(t, &notes{})
		_, err := l.from.PushImage("a", "3", registrytest.Image{Version: "moved"})
		require.NoError(t, err)
		_, err = l.from.PushImage("a", "new", registrytest.Image{Version: "new"})
		require.NoError(t, err)
		require.NoError(t, l.to.Untag("mirror/deep/a", "4"))
		done, lists, heads, _ := l.again(t)
		require.Equal(t, run.Tally{Total: 11, Unchanged: 8, Copied: 2, Tagged: 1}, done)
		require.Equal(t, 1, lists)
		require.GreaterOrEqual(t, heads, 3)
		for _, tag := range []string{"3", "4", "new"} {
			want, err := l.from.Digest("a", tag)
			require.NoError(t, err)
			got, err := l.to.Digest("mirror/deep/a", tag)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
	})
}

// TestListWithGaps: a tag that the list omits or has with another digest is not copied if the
// destination has it.
func TestListWithGaps(t *testing.T) {
	other := `"sha256:` + strings.Repeat("0", 64) + `"`
	for name, body := range map[string][2]string{
		"empty": {`{"tags":[],"has_additional":false}`, `[]`},
		"null":  {`{"tags":[{"name":"1","manifest_digest":null}]}`, `[{"digest":` + other + `,"tags":null}]`},
		"old":   {`{"tags":[{"name":"1","manifest_digest":` + other + `}],"has_additional":false}`, `[{"digest":` + other + `,"tags":[{"name":"1"}]}]`},
	} {
		t.Run(name, func(t *testing.T) {
			withLists(t, registrytest.BulkAPI{}, func(t *testing.T, l listed) {
				l.add("a", 5)
				l.run(t, &notes{})
				l.to.Inject(registrytest.Fault{Match: list, Status: 200, Body: body[len(l.harbors)]})
				done, lists, heads, _ := l.again(t)
				require.Equal(t, run.Tally{Total: 5, Unchanged: 5}, done)
				require.Equal(t, []int{1, 5}, []int{lists, heads})
				require.Zero(t, l.to.Count(registrytest.Kinds(registrytest.KindManifestPut)))
			})
		})
	}
}

// TestUnusableList: each tag takes a HEAD, and there is one warning.
func TestUnusableList(t *testing.T) {
	faults := map[string]registrytest.Fault{
		"unauthorized": {Status: http.StatusUnauthorized}, "denied": {Status: http.StatusForbidden},
		"no API": {Status: http.StatusNotFound}, "broken": {Status: http.StatusInternalServerError},
		"away": {Status: http.StatusBadGateway}, "page": {Status: 200, Body: "<html>hello</html>"},
		"another kind": {Status: 200, Body: `"hello"`}, "cut": {Status: 200, Body: `[{"digest":`}, "reset": {Reset: true},
		"other fields": {Status: 200, Body: `[{"tags":[{"name":"0"}]}]`},
	}
	withLists(t, registrytest.BulkAPI{}, func(t *testing.T, l listed) {
		l.add("a", 5)
		l.add("b", 5)
		l.run(t, &notes{})
		for name, fault := range faults {
			t.Run(name, func(t *testing.T) {
				fault.Match = list
				defer l.to.Inject(fault)()
				l.to.ResetRequests()
				forecast := l.forecast(t, &notes{})
				require.Equal(t, 10, forecast.Unchanged)
				require.Zero(t, forecast.Failed)
				require.True(t, fault.Reset || l.to.Count(list) == 2)
				l.log.Reset()
				done, lists, heads, _ := l.again(t)
				require.Equal(t, run.Tally{Total: 10, Unchanged: 10}, done)
				require.Equal(t, 10, heads)
				require.True(t, lists == 2 || fault.Reset && lists > 2, lists) // because net/http retries
				require.Equal(t, 1, strings.Count(l.log.String(), "level=WARN"), l.log.String())
			})
		}
	})
}

// TestLaterPageFails: the pages before the one that fails are used.
func TestLaterPageFails(t *testing.T) {
	withLists(t, registrytest.BulkAPI{PageLimit: 4}, func(t *testing.T, l listed) {
		l.add("a", 10)
		l.run(t, &notes{})
		l.to.Inject(registrytest.Fault{Match: registrytest.All(list, registrytest.Page(2)), Status: http.StatusForbidden})
		done, lists, heads, _ := l.again(t)
		require.Equal(t, run.Tally{Total: 10, Unchanged: 10}, done)
		require.Equal(t, []int{2, 6}, []int{lists, heads})
		require.Contains(t, l.log.String(), "later_page=true")
	})
}

// TestFewTags: a few tags of a large repository are looked up one by one, after at most one page of
// the list.
func TestFewTags(t *testing.T) {
	for _, few := range []int{2, 3, 5} {
		withLists(t, registrytest.BulkAPI{PageLimit: 10}, func(t *testing.T, l listed) {
			l.add("a", few)
			l.run(t, &notes{})
			for i := range 25 { // pushed later, so listed first
				_, err := l.to.PushImage("mirror/deep/a", fmt.Sprint("x", i), registrytest.Image{Version: fmt.Sprint("x", i), Layers: base})
				require.NoError(t, err)
			}
			done, lists, heads, _ := l.again(t)
			require.Equal(t, run.Tally{Total: few, Unchanged: few}, done)
			require.Equal(t, []int{min(1, few/3), few}, []int{lists, heads})
		})
	}
}

// TestListedPlatforms: if only some platforms are mirrored, the digest in the list is that of
// another index, so the tag is looked up.
func TestListedPlatforms(t *testing.T) {
	withLists(t, registrytest.BulkAPI{}, func(t *testing.T, l listed) {
		l.add("a", 5)
		l.entries[0].Selection = selection.Selection{Platforms: []string{amd64}}.Pointer()
		l.run(t, &notes{})
		done, lists, _, _ := l.again(t)
		require.Equal(t, run.Tally{Total: 5, Unchanged: 5}, done)
		require.Zero(t, lists)
	})
}

// TestListedAsAWhole: if some platforms are wanted, a tag with the source's whole index is not up
// to date, even if the list has its digest.
func TestListedAsAWhole(t *testing.T) {
	withLists(t, registrytest.BulkAPI{}, func(t *testing.T, l listed) {
		l.add("a", 5)
		_, err := l.from.PushIndex("a", "index", registrytest.MultiPlatform("1", amd64, arm64))
		require.NoError(t, err)
		l.run(t, &notes{})
		one := l.entries[0]
		l.entries[0].Selection = selection.Selection{Exclude: []string{"index"}}.Pointer()
		one.Selection = selection.Selection{List: []string{"index"}, Platforms: []string{amd64}}.Pointer()
		l.entries = append(l.entries, one)
		done, lists, _, _ := l.again(t)
		require.Equal(t, 1, lists)
		require.Equal(t, 5, done.Unchanged, "%+v", done)
		children, err := l.to.Children("mirror/deep/a", "index")
		require.NoError(t, err)
		require.Len(t, children, 2, "amd64 and its attestation")
	})
}

// TestListedAway: if a destination is away, there is no warning that its list cannot be used.
func TestListedAway(t *testing.T) {
	withLists(t, registrytest.BulkAPI{}, func(t *testing.T, l listed) {
		l.add("a", 5)
		l.to.Inject(registrytest.Fault{Status: http.StatusBadGateway})
		require.Positive(t, l.forecast(t, &notes{}).Failed)
		require.Positive(t, l.to.Count(list))
		require.Empty(t, l.log.String())
	})
}

// TestListedLimit: a 429 of the API limits the destination, and the repository is left for later.
func TestListedLimit(t *testing.T) {
	withLists(t, registrytest.BulkAPI{}, func(t *testing.T, l listed) {
		l.add("a", 5)
		l.run(t, &notes{})
		l.to.ResetRequests()
		limit := registrytest.Fault{Match: list, Times: 1, Status: http.StatusTooManyRequests}
		l.to.Inject(limit)
		n := &notes{}
		_, result := l.deliver(t, n)
		require.Len(t, result.Left, 1)
		require.Len(t, result.Left[0].Images, 5)
		require.Empty(t, n.failures)
		require.Zero(t, l.to.Count(heads))
		l.to.Inject(limit)
		require.Equal(t, 5, l.forecast(t, n).Unchanged)
		require.Empty(t, l.log.String())
	})
}
