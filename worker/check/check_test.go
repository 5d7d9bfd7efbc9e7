package check_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/check"
	"github.com/osism/skopeo-worker/worker/comparetest"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
)

const (
	tool  = "osism/tool"
	amd64 = "linux/amd64"
	arm64 = "linux/arm64"
)

var (
	heads = registrytest.Kinds(registrytest.KindManifestHead)
	lists = registrytest.Kinds(registrytest.KindTags)
	puts  = registrytest.Kinds(registrytest.KindManifestPut, registrytest.KindBlobUpload, registrytest.KindBlobMount, registrytest.KindOther)
)

// site is two registries with the same repositories, and a checker that compares them.
type site struct {
	*check.Checker
	from, to *registrytest.Registry
	pauses   chan int // attempts that were followed by a pause
}

func newSite(t *testing.T, options ...registrytest.Option) *site {
	t.Helper()
	s := &site{from: registrytest.New(t, options...), to: registrytest.New(t), pauses: make(chan int, 1000)}
	s.Checker = s.over(registry.NewTransport([]string{s.from.Host()}, registry.DefaultStall))
	// No check may pull or change anything.
	t.Cleanup(func() {
		require.Zero(t, s.from.Pulls())
		require.Zero(t, s.to.Count(puts))
	})
	return s
}

// over returns a checker that reaches the sources through the transport.
func (s *site) over(network http.RoundTripper) *check.Checker {
	insecure := []string{s.from.Host(), s.to.Host()}
	source := registry.NewClient(registry.Options{Insecure: insecure, Transport: check.WithoutPulls(network)})
	upstream := &resolve.Upstream{Registry: source, Listing: listing.New(listing.Options{Registry: source})}
	return &check.Checker{
		Resolver: upstream,
		Mirror:   mirror.NewComparing(source, registry.NewClient(registry.Options{Insecure: insecure}).Comparing(), upstream.Listing, mirrortest.Limited),
		Notes:    &comparetest.Memory{},
		Backoff: func(attempt int) time.Duration {
			s.pauses <- attempt
			return 0
		},
	}
}

// both pushes one image to both registries.
func (s *site) both(t *testing.T, tags ...string) {
	t.Helper()
	for _, tag := range tags {
		image(t, s.from, tool, tag, tag)
		image(t, s.to, tool, tag, tag)
	}
	s.to.ResetRequests()
}

func image(t *testing.T, r *registrytest.Registry, repository, tag, version string) string {
	t.Helper()
	digest, err := r.PushImage(repository, tag, registrytest.Image{Version: version})
	require.NoError(t, err)
	return digest
}

func index(t *testing.T, r *registrytest.Registry, repository, tag string, platforms ...string) string {
	t.Helper()
	digest, err := r.PushIndex(repository, tag, registrytest.MultiPlatform("index", platforms...))
	require.NoError(t, err)
	return digest
}

func (s *site) entry(repository string) message.Repository {
	return message.Repository{Source: reference.MustRepository(s.from.Host() + "/" + repository), Destination: reference.MustRepository(s.to.Host() + "/" + repository)}
}

func (s *site) check(t *testing.T, list ...message.Repository) check.Report {
	t.Helper()
	report, err := s.Check(t.Context(), list)
	require.NoError(t, err)
	return report
}

func none() *int64 { return new(int64) }

// TestEveryOutcome: each distinct digest counts as one copy, and is looked up once at the
// destination. An image that the destination has under another name is only tagged.
func TestEveryOutcome(t *testing.T) {
	s := newSite(t)
	s.both(t, "1", "2")
	image(t, s.from, tool, "alias-of-2", "2")
	image(t, s.from, tool, "3", "3")
	image(t, s.from, tool, "alias-of-3", "3")
	image(t, s.from, tool, "renamed", "kept")
	image(t, s.to, tool, "kept", "kept")
	index(t, s.from, tool, "4", amd64, arm64)
	image(t, s.to, tool, "4", "older")
	s.to.ResetRequests()
	pinned := s.entry(tool)
	digest, err := s.from.Digest(tool, "3")
	require.NoError(t, err)
	pinned.Digest = reference.MustDigest(digest)

	report := s.check(t, s.entry(tool), pinned)
	require.Len(t, report.Repositories, 1, "the entries of a repository share a row")
	require.Equal(t, check.Row{
		Repository: reference.MustRepository(s.from.Host() + "/" + tool), Destination: reference.MustRepository(s.to.Host() + "/" + tool),
		Counts: check.Counts{Copy: 2, Tag: 4, Unchanged: 2, Pulls: 2, PullsAtLeast: true, BytesAtLeast: true},
		Failed: []check.Failed{},
	}, report.Repositories[0])
	require.Equal(t, check.Totals{Repositories: 1, Counts: report.Repositories[0].Counts}, report.Totals)
	require.True(t, report.ToDo())
	byDigest := func(r registrytest.Request) bool { return heads(r) && strings.Contains(r.Reference, ":") }
	require.Equal(t, 3, s.to.Count(byDigest))
	require.Equal(t, 8+3, s.to.Count(heads))
	require.Empty(t, s.pauses)
}

// TestNothingToDo: if nothing has changed, each tag costs one request.
func TestNothingToDo(t *testing.T) {
	s := newSite(t)
	s.both(t, "1", "2", "3")
	var told []int
	s.Progress = func(done, total int) { told = append(told, done, total) }
	report := s.check(t, s.entry(tool))
	require.Equal(t, check.Counts{Unchanged: 3, Bytes: none()}, report.Totals.Counts)
	require.False(t, report.ToDo())
	require.Equal(t, 3, s.to.Count(heads))
	require.Equal(t, []int{0, 1, 1, 1}, told)
	require.Equal(t, check.Totals{Counts: check.Counts{Bytes: none()}}, s.check(t).Totals)
}

// TestUnselected: a selection that matches no tag is a warning.
func TestUnselected(t *testing.T) {
	s := newSite(t)
	s.both(t, "1", "2")
	entry := s.entry(tool)
	entry.Selection = &selection.Selection{Include: []string{"v"}}
	require.Equal(t, []string{"FILTER, or the tags of the entry, match none of 2 tags"}, s.check(t, entry).Repositories[0].Warnings)
	require.Empty(t, s.check(t, s.entry(tool)).Repositories[0].Warnings)
}

// TestNewRepository: one look-up and one list of tags show that the destination has no tags.
func TestNewRepository(t *testing.T) {
	s := newSite(t)
	require.NoError(t, s.from.AddSynthetic(tool, registrytest.Synthetic{Tags: registrytest.Numbered("%03d", 300)}))
	report := s.check(t, s.entry(tool))
	require.Equal(t, check.Counts{Copy: 300, Pulls: 300, BytesAtLeast: true}, report.Totals.Counts)
	require.Equal(t, 1, s.to.Count(heads))
	require.Equal(t, 1, s.to.Count(lists))
}

// TestPlatforms: the index at the destination shows for which platforms it was made.
func TestPlatforms(t *testing.T) {
	s := newSite(t)
	s.both(t, "1")
	for _, r := range []*registrytest.Registry{s.from, s.to} {
		tag := map[bool]string{true: "foreign"}[r == s.from] // which a worker leaves untagged
		_, err := r.PushImage(tool, tag, registrytest.Image{Platform: arm64})
		require.NoError(t, err)
	}
	index(t, s.from, tool, "2", amd64, arm64)
	index(t, s.to, tool, "2", amd64, arm64) // mirrored without PLATFORMS
	image(t, s.from, tool, "also-1", "1")
	s.to.ResetRequests()
	entry := s.entry(tool)
	entry.Selection = &selection.Selection{Platforms: []string{amd64}}
	report := s.check(t, entry)
	require.Equal(t, check.Counts{Copy: 1, Tag: 1, Unchanged: 1, Skipped: 1, Pulls: 1, PullsAtLeast: true, BytesAtLeast: true}, report.Totals.Counts)
}

// TestListedPlatforms: if the listing has the platforms of an index, the pulls are counted exactly.
func TestListedPlatforms(t *testing.T) {
	s := newSite(t)
	internet := registrytest.NewInternet(t, nil, nil)
	s.Checker = s.over(internet.Transport)
	index(t, internet.Hub, tool, "both", amd64, arm64)
	index(t, internet.Hub, tool, "foreign", arm64)
	image(t, internet.Hub, tool, "single", "1")
	entry := message.Repository{Source: reference.MustRepository("docker.io/" + tool), Destination: reference.MustRepository(s.to.Host() + "/" + tool)}
	counts := s.check(t, entry).Totals.Counts
	require.Equal(t, []any{3, 3 + 2 + 1, true}, []any{counts.Copy, counts.Pulls, counts.PullsAtLeast})

	entry.Selection = &selection.Selection{Platforms: []string{amd64}}
	counts = s.check(t, entry).Totals.Counts
	require.Equal(t, []any{2, 1, 2 + 1, true}, []any{counts.Copy, counts.Skipped, counts.Pulls, counts.PullsAtLeast})
	require.Zero(t, internet.Hub.Pulls())
}

// TestTransientErrorsPass: transient errors are retried and not reported, and only the tag that
// failed is looked up again.
func TestTransientErrorsPass(t *testing.T) {
	s := newSite(t)
	s.both(t, "1", "2", "3")
	s.from.Inject(registrytest.Fault{Match: lists, Status: 503, Times: 2})
	s.from.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref("2")), Status: 500, Times: 1})
	s.to.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref("3")), Reset: true, Times: 2})
	report := s.check(t, s.entry(tool))
	require.Equal(t, check.Counts{Unchanged: 3, Bytes: none()}, report.Totals.Counts)
	require.Empty(t, report.Repositories[0].Failed)
	require.Equal(t, 4, s.from.Count(heads))
	require.NotEmpty(t, s.pauses)
}

// TestLimited: after a 429, the check waits and retries, unless the registry requests a long wait.
func TestLimited(t *testing.T) {
	s := newSite(t)
	s.both(t, "1")
	s.from.Inject(registrytest.Fault{Match: lists, Status: 429, Times: 7})
	require.Equal(t, 1, s.check(t, s.entry(tool)).Totals.Unchanged)
	require.Len(t, s.pauses, 7)

	s.from.Inject(registrytest.Fault{Match: lists, Status: 429, Header: http.Header{"Retry-After": {"3600"}}})
	report := s.check(t, s.entry(tool))
	require.Contains(t, report.Repositories[0].Failed[0].Reason, "too many requests")
	require.Len(t, s.pauses, 7)
}

// TestFailures: each failed image has its error, and other images are counted.
func TestFailures(t *testing.T) {
	s := newSite(t)
	s.both(t, "1", "2", "3")
	image(t, s.from, tool, "4", "4")
	digest := image(t, s.from, tool, "5", "5")
	s.from.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref("1")), Status: 500})
	s.to.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref("2")), Status: 502})
	s.to.Inject(registrytest.Fault{Match: registrytest.All(heads, registrytest.Ref(digest)), Status: 502})
	named := s.entry("osism/named")
	named.Selection = &selection.Selection{List: []string{"gone"}}

	report := s.check(t, s.entry(tool), s.entry("no/such"), named)
	require.Equal(t, check.Totals{
		Repositories: 3, Counts: check.Counts{Copy: 1, Unchanged: 1, Pulls: 1, PullsAtLeast: true, BytesAtLeast: true}, Failed: 5,
	}, report.Totals)
	reasons := map[string]string{}
	for _, row := range report.Repositories {
		for _, f := range row.Failed {
			reasons[strings.TrimPrefix(f.Image, s.from.Host()+"/")] = f.Reason
		}
	}
	require.Len(t, reasons, 5)
	require.Contains(t, reasons[tool+":1"], "unavailable")
	require.Contains(t, reasons[tool+":2"], "look up "+s.to.Host()+"/"+tool+":2")
	require.Contains(t, reasons[tool+":5"], "unavailable (502)")
	require.Contains(t, reasons["no/such"], "no such repository")
	require.Contains(t, reasons["osism/named:gone"], "no such repository")
}

// TestSilentDestination: if the destination does not answer, each row has one error, and later rows
// do not retry.
func TestSilentDestination(t *testing.T) {
	s := newSite(t)
	refusing := httptest.NewServer(nil)
	refusing.Close()
	gone := strings.TrimPrefix(refusing.URL, "http://")
	var list []message.Repository
	for range 40 {
		repository := tool + strings.Repeat("x", len(list))
		image(t, s.from, repository, "1", "1")
		image(t, s.from, repository, "2", "2")
		list = append(list, message.Repository{Source: reference.MustRepository(s.from.Host() + "/" + repository), Destination: reference.MustRepository(gone + "/" + repository)})
	}
	report := s.check(t, list...)
	for i, row := range report.Repositories {
		require.Len(t, row.Failed, 1)
		require.Equal(t, list[i].Destination.String(), row.Failed[0].Image)
		require.Contains(t, row.Failed[0].Reason, "unavailable")
		require.Nil(t, row.Bytes)
	}
	require.Less(t, len(s.pauses), 40*3)
}

// TestNoPullForADigest: no pull looks up a digest, even if the registry sends none in answer to HEAD.
func TestNoPullForADigest(t *testing.T) {
	s := newSite(t, registrytest.WithoutDigestHeader())
	s.both(t, "1")
	row := s.check(t, s.entry(tool)).Repositories[0]
	require.Len(t, row.Failed, 1)
	require.Contains(t, row.Failed[0].Reason, "known only after a pull")
	require.Empty(t, s.pauses)
}

// TestMissing: missing repositories and tags of the source are reported as missing, not as failed
// requests.
func TestMissing(t *testing.T) {
	s := newSite(t)
	image(t, s.from, tool, "1", "1")
	tag, digestless := s.entry(tool), s.entry("osism/digestless")
	tag.Tag, digestless.Tag = reference.MustTag("2"), reference.MustTag("1")
	image(t, s.from, "osism/digestless", "1", "1")
	image(t, s.from, "osism/denied", "1", "1")
	headOf := func(repository string) registrytest.Match {
		return func(r registrytest.Request) bool {
			return r.Kind == registrytest.KindManifestHead && r.Repository == repository
		}
	}
	named := s.entry("osism/missing")
	named.Tag = reference.MustTag("1")
	s.from.Inject(registrytest.Fault{Match: headOf("osism/denied"), Status: 404})
	s.from.Inject(registrytest.Fault{Match: headOf("osism/digestless"), Status: 405})
	const repository = "the registry has no such repository, or does not show it with these credentials (404)"
	want := map[string]string{
		tool + ":2":          "the registry has no such tag (404 for HEAD; a check sends no GET, which would be a pull)",
		"osism/missing:1":    repository,
		"osism/gone":         repository,
		"osism/denied:1":     "the registry lists the tag, and does not have it (404 for HEAD; a check sends no GET, which would be a pull)",
		"osism/digestless:1": "the registry does not answer HEAD with a digest: the digest is known only after a pull, and a check pulls nothing",
	}
	report := s.check(t, tag, named, s.entry("osism/gone"), s.entry("osism/denied"), digestless)
	found := map[string]string{}
	for _, row := range report.Repositories {
		require.Len(t, row.Failed, 1)
		found[strings.TrimPrefix(row.Failed[0].Image, s.from.Host()+"/")] = row.Failed[0].Reason
	}
	require.Equal(t, want, found)
}
