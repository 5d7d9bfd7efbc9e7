package listing_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

const (
	amd64, arm64v8, windows = "linux/amd64", "linux/arm64/v8", "windows/amd64"

	inHub  = "docker.io/library/nginx"
	inQuay = "quay.io/osism/deep/tool"
)

// bulk matches requests for bulk listings.
var bulk = registrytest.Kinds(registrytest.KindBulkList)

// setup is an Internet with listers that use it.
type setup struct {
	*registrytest.Internet
	*listing.Listers
	log *bytes.Buffer
}

func start(t *testing.T, quay, hub registrytest.BulkAPI) *setup {
	t.Helper()
	s := &setup{log: new(bytes.Buffer)}
	s.Internet = registrytest.NewInternet(t,
		[]registrytest.Option{registrytest.WithQuayAPI(quay)}, []registrytest.Option{registrytest.WithHubAPI(hub)})
	s.Listers = listing.New(listing.Options{
		Registry: registry.NewClient(registry.Options{Transport: s.Transport, UserAgent: "lister/1"}),
		Log:      slog.New(slog.NewTextHandler(s.log, nil)),
	})
	return s
}

// upstream returns the registry and path of a repository.
func (s *setup) upstream(repository string) (*registrytest.Registry, string) {
	if path, ok := strings.CutPrefix(repository, "docker.io/"); ok {
		return s.Hub, path
	}
	return s.Quay, strings.TrimPrefix(repository, "quay.io/")
}

// push stores small images in this order.
func (s *setup) push(t *testing.T, repository string, tags ...string) {
	t.Helper()
	r, path := s.upstream(repository)
	for _, tag := range tags {
		_, err := r.PushImage(path, tag, registrytest.Image{Version: tag})
		require.NoError(t, err)
	}
}

// list returns the tags up to the first error.
func (s *setup) list(ctx context.Context, repository string) ([]listing.Tag, error) {
	var all []listing.Tag
	for tag, err := range s.For(reference.MustRepository(repository)).Tags(ctx, reference.MustRepository(repository)) {
		if err != nil {
			return all, err
		}
		all = append(all, tag)
	}
	return all, nil
}

func (s *setup) names(t *testing.T, repository string) []string {
	t.Helper()
	tags, err := s.list(t.Context(), repository)
	require.NoError(t, err)
	return namesOf(tags)
}

func namesOf(tags []listing.Tag) []string {
	names := []string{}
	for _, tag := range tags {
		names = append(names, tag.Name.String())
	}
	return names
}

// both runs a test with Docker Hub and with quay.io.
func both(t *testing.T, test func(t *testing.T, repository string)) {
	for _, repository := range []string{inHub, inQuay} {
		t.Run(repository, func(t *testing.T) { test(t, repository) })
	}
}

// layersSize returns the size of all layers of the manifests.
func layersSize(t *testing.T, r *registrytest.Registry, repository string, digests ...string) (sum int64) {
	t.Helper()
	for _, digest := range digests {
		payload, err := r.Manifest(repository, digest)
		require.NoError(t, err)
		var manifest v1.Manifest
		require.NoError(t, json.Unmarshal(payload, &manifest))
		for _, layer := range manifest.Layers {
			sum += layer.Size
		}
	}
	require.Positive(t, sum)
	return sum
}

func TestHub(t *testing.T) {
	s := start(t, registrytest.BulkAPI{}, registrytest.BulkAPI{Inactive: []string{"old"}})
	_, path := s.upstream(inHub)
	old, err := s.Hub.PushImage(path, "old", registrytest.Image{Platform: arm64v8})
	require.NoError(t, err)
	index, err := s.Hub.PushIndex(path, "1.0", registrytest.MultiPlatform("1.0", amd64, arm64v8))
	require.NoError(t, err)
	win, err := s.Hub.PushIndex(path, "1.0-windows", registrytest.MultiPlatform("w", windows))
	require.NoError(t, err)
	_, err = s.Hub.PushChart(path, "chart")
	require.NoError(t, err)
	at := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	for i, tag := range []string{"old", "1.0", "1.0-windows", "chart"} {
		require.True(t, s.Hub.SetTagTime(path, tag, at.Add(time.Duration(i)*time.Hour)))
	}

	of := func(digest string) (children []string) {
		found, err := s.Hub.Children(path, digest)
		require.NoError(t, err)
		for _, child := range found {
			children = append(children, child.Digest.String())
		}
		return children
	}
	size := func(digest string) int64 { return layersSize(t, s.Hub, path, append(of(digest), digest)...) }
	got, err := s.list(t.Context(), inHub)
	require.NoError(t, err)
	require.NotEmpty(t, got[0].Digest)
	require.Empty(t, got[0].Platforms, "a chart has none")
	require.Equal(t, []listing.Tag{
		{reference.MustTag("1.0-windows"), reference.MustDigest(win), string(types.OCIImageIndex), at.Add(2 * time.Hour), size(win), []listing.Platform{{windows, size(of(win)[0])}}},
		{reference.MustTag("1.0"), reference.MustDigest(index), string(types.OCIImageIndex), at.Add(time.Hour), size(index), []listing.Platform{{amd64, size(of(index)[0])}, {arm64v8, size(of(index)[1])}}},
		{reference.MustTag("old"), reference.MustDigest(old), string(types.OCIManifestSchema1), at, size(old), []listing.Platform{{arm64v8, size(old)}}},
	}, got[1:])
	require.True(t, got[1].WindowsOnly(), "its attestations are not a platform")
	require.False(t, got[2].WindowsOnly())
	require.False(t, got[0].WindowsOnly(), "it is not listed")
	require.True(t, s.For(reference.MustRepository(inHub)).NewestFirst())
	requests := s.Hub.Requests()
	require.Len(t, requests, 1)
	require.Equal(t, "/v2/namespaces/library/repositories/nginx/tags", requests[0].Path)
	require.Contains(t, requests[0].UserAgent, "lister/1")
	require.Empty(t, s.log.String())
}

func TestQuay(t *testing.T) {
	s := start(t, registrytest.BulkAPI{DeadTags: true}, registrytest.BulkAPI{})
	r, path := s.upstream(inQuay)
	s.push(t, inQuay, "gone", "moved", "ended", "ending")
	require.NoError(t, r.Untag(path, "gone"))
	index, err := r.PushIndex(path, "moved", registrytest.MultiPlatform("1", amd64))
	require.NoError(t, err)
	at := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	require.True(t, r.SetTagTime(path, "moved", at))
	require.True(t, r.ExpireTag(path, "ended", time.Now().Add(-time.Minute)))
	require.True(t, r.ExpireTag(path, "ending", time.Now().Add(time.Hour)))

	got, err := s.list(t.Context(), inQuay)
	require.NoError(t, err)
	require.Equal(t, []string{"moved", "ending"}, namesOf(got))
	require.Equal(t, listing.Tag{Name: reference.MustTag("moved"), Digest: reference.MustDigest(index), Updated: at}, got[0], "Quay does not list the size of an index")
	require.Equal(t, layersSize(t, r, path, got[1].Digest.String()), got[1].Size)
	require.True(t, s.For(reference.MustRepository(inQuay)).NewestFirst())
	requests := r.Requests()
	require.Len(t, requests, 1)
	require.Equal(t, "/api/v1/repository/osism/deep/tool/tag/", requests[0].Path)
}

func TestMissingFields(t *testing.T) {
	both(t, func(t *testing.T, repository string) {
		quirks := registrytest.BulkAPI{WithoutDigest: []string{"b"}, Null: []string{"c"}}
		s := start(t, quirks, quirks)
		s.push(t, repository, "a", "b", "c")
		got, err := s.list(t.Context(), repository)
		require.NoError(t, err)
		require.Equal(t, listing.Tag{Name: reference.MustTag("c")}, got[0])
		require.Equal(t, "b", got[1].Name.String())
		require.Empty(t, got[1].Digest)
		require.False(t, got[1].Updated.IsZero())
		require.NotEmpty(t, got[2].Digest)
	})
}

func TestPagesOnDemand(t *testing.T) {
	both(t, func(t *testing.T, repository string) {
		s := start(t, registrytest.BulkAPI{}, registrytest.BulkAPI{})
		r, path := s.upstream(repository)
		require.NoError(t, r.AddSynthetic(path, registrytest.Synthetic{Tags: registrytest.Numbered("%03d", 250)}))
		n := 0
		for tag, err := range s.For(reference.MustRepository(repository)).Tags(t.Context(), reference.MustRepository(repository)) {
			require.NoError(t, err)
			require.NotEmpty(t, tag.Digest)
			if n++; n == 100 {
				break
			}
		}
		require.Equal(t, 1, r.Count(registrytest.Any))

		names := s.names(t, repository)
		require.Len(t, names, 250)
		require.Equal(t, "249", names[0], "the most recent one")
		require.Equal(t, 1+3, r.Count(registrytest.Any))
	})
}

func TestShortPagesAndPushesBetweenThem(t *testing.T) {
	both(t, func(t *testing.T, repository string) {
		var s *setup
		quirks := registrytest.BulkAPI{PageLimit: 2, AfterPage: func(_ string, page int) {
			if page == 1 {
				s.push(t, repository, "new")
			}
		}}
		s = start(t, quirks, quirks)
		s.push(t, repository, "a", "b", "c", "d", "e")
		require.Equal(t, []string{"e", "d", "c", "b", "a"}, s.names(t, repository), "d is on two pages")
		r, _ := s.upstream(repository)
		require.Equal(t, 3, r.Count(bulk))
	})
}

// TestPagePastTheEnd: if tags are deleted meanwhile, the page that was announced may be gone. Docker Hub
// answers 404 to it, which may also be a fault: the OCI API lists what is left.
func TestPagePastTheEnd(t *testing.T) {
	both(t, func(t *testing.T, repository string) {
		var s *setup
		quirks := registrytest.BulkAPI{PageLimit: 2, AfterPage: func(_ string, page int) {
			r, path := s.upstream(repository)
			if page == 1 {
				require.NoError(t, r.Untag(path, "a"))
			}
		}}
		s = start(t, quirks, quirks)
		s.push(t, repository, "a", "b", "c")
		require.Equal(t, []string{"c", "b"}, s.names(t, repository))
		r, _ := s.upstream(repository)
		require.Equal(t, 2, r.Count(bulk))
	})
}

func TestTwentyThousandTags(t *testing.T) {
	s := start(t, registrytest.BulkAPI{}, registrytest.BulkAPI{AnonymousTags: 1000})
	for _, repository := range []string{inHub, inQuay} {
		r, path := s.upstream(repository)
		require.NoError(t, r.AddSynthetic(path,
			registrytest.Synthetic{Tags: registrytest.Numbered("%05d", 20_000), Distinct: 3}))
		seen := map[string]bool{}
		yielded, digests := 0, 0
		for tag, err := range s.For(reference.MustRepository(repository)).Tags(t.Context(), reference.MustRepository(repository)) {
			require.NoError(t, err)
			seen[tag.Name.String()] = true
			yielded++
			if !tag.Digest.IsZero() {
				digests++
			}
		}
		require.Len(t, seen, 20_000)
		require.Equal(t, 20_000, yielded)
		require.Equal(t, map[string]int{inQuay: 20_000, inHub: 1000}[repository], digests)
	}
	require.Equal(t, 200, s.Quay.Count(registrytest.Any))
	require.Equal(t, 11, s.Hub.Count(bulk), "without a login Docker Hub lists 1,000 tags; the OCI API has the others")
	require.Contains(t, s.log.String(), "sign in to page further")
}

func TestTemporaryFailures(t *testing.T) {
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for name, c := range map[string]struct {
		status   int
		header   http.Header
		err      error
		class    outcome.Class
		min, max time.Duration
	}{
		"quay's own":    {status: 429, err: registry.ErrLimited, class: outcome.Limited},
		"seconds":       {429, http.Header{"Retry-After": {"7"}}, registry.ErrLimited, outcome.Limited, 7 * time.Second, 7 * time.Second},
		"date":          {429, http.Header{"Retry-After": {in(30 * time.Minute)}}, registry.ErrLimited, outcome.Limited, 20 * time.Minute, 30 * time.Minute},
		"unix time":     {429, http.Header{"Retry-After": {soon(30 * 60)}}, registry.ErrLimited, outcome.Limited, 20 * time.Minute, 30 * time.Minute},
		"reset":         {429, http.Header{"X-Ratelimit-Reset": {soon(30 * 60)}}, registry.ErrLimited, outcome.Limited, 20 * time.Minute, 30 * time.Minute},
		"before":        {429, http.Header{"X-Retry-After": {soon(30 * 60)}}, registry.ErrLimited, outcome.Limited, 20 * time.Minute, 30 * time.Minute},
		"an hour":       {429, http.Header{"Retry-After": {"86400"}}, registry.ErrLimited, outcome.Limited, time.Hour, time.Hour},
		"server":        {status: 500, err: registry.ErrUnavailable, class: outcome.Transient},
		"busy":          {503, http.Header{"Retry-After": {"5"}}, registry.ErrUnavailable, outcome.Transient, 5 * time.Second, 5 * time.Second},
		"request slow":  {status: 408, err: registry.ErrUnavailable, class: outcome.Transient},
		"gateway in it": {status: 502, err: registry.ErrUnavailable, class: outcome.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, repository string) {
				quirks := registrytest.BulkAPI{PageLimit: 2}
				s := start(t, quirks, quirks)
				s.push(t, repository, "a", "b", "c")
				r, _ := s.upstream(repository)
				r.Inject(registrytest.Fault{
					Match:  registrytest.All(bulk, registrytest.Page(2)),
					Status: c.status, Header: c.header, Body: "<html><h1>429 Too Many Requests</h1></html>",
				})
				got, err := s.list(t.Context(), repository)
				require.Equal(t, []string{"c", "b"}, namesOf(got))
				require.ErrorIs(t, err, c.err)
				require.ErrorContains(t, err, repository)
				require.Equal(t, c.class, outcome.Classify(err))
				require.GreaterOrEqual(t, outcome.RetryAfter(err), c.min)
				require.LessOrEqual(t, outcome.RetryAfter(err), c.max)
				require.Equal(t, 2, r.Count(registrytest.Any), "no other API is asked")
			})
		})
	}
}
