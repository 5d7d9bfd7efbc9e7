package prune_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/prune"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

const (
	tool  = "osism/tool"
	day   = 24 * time.Hour
	amd64 = "linux/amd64"
	arm64 = "linux/arm64"
	s390x = "linux/s390x"
)

var now = time.Now().UTC()

// site is a destination with records of what was mirrored there.
type site struct {
	prune.Survey
	t  *testing.T
	to *registrytest.Registry

	selected []string // by the source of osism/tool today
	failed   error    // of its listing
	named    map[string]bool
}

func newSite(t *testing.T, options ...registrytest.Option) *site {
	t.Helper()
	s := &site{t: t, to: registrytest.New(t, options...), selected: []string{"kept"}, named: map[string]bool{}}
	s.Survey = prune.Survey{
		Registry: registry.NewClient(registry.Options{Insecure: []string{s.to.Host()}}), Select: s.Select,
		Mirror: "default", Destination: s.to.Host(), Grace: 30 * day, Now: now,
		Lacks: func(_ reference.Repository, tag reference.Tag) holding.Reason {
			if s.named[tag.String()] {
				return ""
			}
			return holding.Unnamed
		},
		Entries: []message.Repository{{Source: source, Destination: s.repository(tool)}},
	}
	return s
}

var source = reference.MustRepository("quay.io/" + tool)

func (s *site) repository(name string) reference.Repository {
	return reference.MustRepository(s.to.Host() + "/" + name)
}

// Select implements prune.Source.
func (s *site) Select(context.Context, message.Repository) ([]reference.Tag, error) {
	var tags []reference.Tag
	for _, tag := range s.selected {
		tags = append(tags, reference.MustTag(tag))
	}
	return tags, s.failed
}

// image pushes an image and records it as dropped that many days ago; 0: not dropped.
func (s *site) image(tag, version string, dropped int) string {
	s.t.Helper()
	digest, err := s.to.PushImage(tool, tag, registrytest.Image{Version: version})
	require.NoError(s.t, err)
	s.record(s.Mirror, tag, digest, dropped)
	return digest
}

func (s *site) index(tag string, dropped int, platforms ...string) string {
	s.t.Helper()
	digest, err := s.to.PushIndex(tool, tag, registrytest.MultiPlatform("index", platforms...))
	require.NoError(s.t, err)
	s.record(s.Mirror, tag, digest, dropped)
	return digest
}

func (s *site) record(mirror, tag, digest string, dropped int) {
	t := holding.Tag{Name: reference.MustTag(tag), Digest: reference.MustDigest(digest), Source: source, First: now.Add(-100 * day), Last: now.Add(-100 * day)}
	if dropped > 0 {
		t.Dropped, t.Why = now.Add(-time.Duration(dropped)*day), holding.Unlisted
	}
	i := slices.IndexFunc(s.Holdings, func(r holding.Repository) bool { return r.Mirror == mirror })
	if i < 0 {
		i = len(s.Holdings)
		s.Holdings = append(s.Holdings, holding.Repository{Destination: s.repository(tool), Mirror: mirror})
	}
	s.Holdings[i].Tags = append(s.Holdings[i].Tags, t)
	slices.SortFunc(s.Holdings[i].Tags, func(a, b holding.Tag) int {
		return slices.Compare([]byte(a.Name.String()), []byte(b.Name.String()))
	})
}

// plan makes a plan, and requires that this changes nothing.
func (s *site) plan() prune.Plan {
	s.t.Helper()
	s.to.ResetRequests()
	p, err := s.Plan(s.t.Context())
	require.NoError(s.t, err)
	require.Zero(s.t, s.to.Count(func(r registrytest.Request) bool { return r.Method != http.MethodGet && r.Method != http.MethodHead }))
	require.NoError(s.t, p.Check())
	return p
}

// tags are those of a plan.
func tags(p prune.Plan) (names []string) {
	for _, r := range p.Repositories {
		for _, t := range r.Tags {
			names = append(names, t.Tag.String())
		}
	}
	return names
}

// why is why a tag stays.
func why(p prune.Plan, tag string) string {
	for _, l := range p.Left {
		if l.Tag.String() == tag {
			return l.Why
		}
	}
	return ""
}

// TestPlan: only tags that were mirrored, have the recorded digest, and were dropped before the
// grace period are planned.
func TestPlan(t *testing.T) {
	s := newSite(t)
	s.image("kept", "kept", 0)
	old := s.image("old", "old", 31)
	s.image("young", "young", 29)
	s.image("moved", "moved", 40)
	_, err := s.to.PushImage(tool, "moved", registrytest.Image{Version: "by others"})
	require.NoError(t, err)
	_, err = s.to.PushImage(tool, "stray", registrytest.Image{Version: "stray"})
	require.NoError(t, err)
	s.image("again", "again", 40)
	s.selected = append(s.selected, "again")
	s.image("named", "named", 40)
	s.Entries = append(s.Entries, message.Repository{Source: source, Destination: s.repository(tool), Tag: reference.MustTag("named")})
	s.image("v1-keep", "v1-keep", 40)
	s.Keep, err = selection.Selection{Keep: []string{"v1"}}.Compile()
	require.NoError(t, err)
	s.record("default", "absent", old, 40)
	s.record("other", "shared", s.image("shared", "shared", 40), 0)
	s.record("other", "both", s.image("both", "both", 40), 50)

	p := s.plan()
	require.Equal(t, []string{"both", "old"}, tags(p))
	require.Equal(t, old, p.Repositories[0].Tags[1].Digest.String())
	require.Equal(t, string(holding.Unlisted), p.Repositories[0].Tags[1].Why)
	require.Equal(t, now.Add(-31*day), p.Repositories[0].Tags[1].Since)
	require.Positive(t, p.Repositories[0].Tags[1].Bytes)
	require.Equal(t, 10, p.Recorded)
	require.Contains(t, why(p, "moved"), "which was not mirrored")
	require.Contains(t, why(p, "again"), "has it again")
	require.Contains(t, why(p, "named"), "has it again")
	require.Contains(t, why(p, "v1-keep"), "--keep")
	require.Contains(t, why(p, "shared"), "the mirror other")
	require.Empty(t, why(p, "stray"))
}

// TestUnlistable: nothing of a repository is planned if its source cannot be listed, or lists
// nothing.
func TestUnlistable(t *testing.T) {
	s := newSite(t)
	s.image("old", "old", 31)
	s.selected = nil
	p := s.plan()
	require.Empty(t, p.Repositories)
	require.Contains(t, p.Left[0].Why, "lists no tags")
	s.selected, s.failed = []string{"kept"}, errors.New("unavailable")
	p = s.plan()
	require.Empty(t, p.Repositories)
	require.Contains(t, p.Left[0].Why, "could not be listed")
	s.failed, s.Destination = nil, s.to.Host()+"/elsewhere"
	require.Empty(t, s.plan().Repositories, "the mirror has another destination now")
}

// TestUnreadable: nothing of a repository is planned if one of its tags cannot be read at the
// destination.
func TestUnreadable(t *testing.T) {
	s := newSite(t)
	s.image("old", "old", 31)
	digest := s.image("kept", "kept", 0)
	for _, status := range []int{403, 404, 500, 503} {
		remove := s.to.Inject(registrytest.Fault{Match: func(r registrytest.Request) bool { return r.Reference == "kept" || r.Reference == digest }, Status: status})
		p := s.plan()
		require.Empty(t, p.Repositories, status)
		require.Contains(t, p.Left[0].Why, "could not be read")
		remove()
	}
	require.Equal(t, []string{"old"}, tags(s.plan()))
}

// TestPartialListing: if the destination does not list a tag that it has, it may have others that
// need a planned manifest. So nothing of the repository is planned.
func TestPartialListing(t *testing.T) {
	s := newSite(t)
	s.image("kept", "kept", 0)
	s.image("old", "same", 31)
	require.NoError(t, s.to.Tag(tool, "by-others", must(s.to.Digest(tool, "old"))(t)))
	for _, fault := range []registrytest.Fault{
		{Match: registrytest.Kinds(registrytest.KindTags), Status: 200, Body: `{"name": "osism/tool", "tags": []}`},
		{Match: registrytest.Kinds(registrytest.KindTags), Status: 200, Body: `{"name": "osism/tool", "tags": ["kept"]}`},
		{Match: registrytest.Kinds(registrytest.KindTags), Status: 404},
	} {
		remove := s.to.Inject(fault)
		p := s.plan()
		require.Empty(t, p.Repositories, fault.Body)
		require.Contains(t, p.Left[0].Why, "the registry does not list a tag that it has: "+s.to.Host()+"/osism/tool:")
		remove()
	}
}

// TestShared: a digest stays, with all its tags, if a tag that stays needs it, no matter which
// client has pushed that tag.
func TestShared(t *testing.T) {
	s := newSite(t)
	s.image("kept", "kept", 0)
	s.image("old", "same", 31)
	s.image("older", "same", 41)
	require.Equal(t, []string{"old", "older"}, tags(s.plan()))
	require.NoError(t, s.to.Tag(tool, "by-others", must(s.to.Digest(tool, "old"))(t)))
	p := s.plan()
	require.Empty(t, p.Repositories)
	require.Contains(t, why(p, "old"), "by-others")

	// distribution does not list tags named index, so this tests an unlisted tag, too: an index
	// whose child has a tag, and a child below an index that stays.
	index := s.index("index", 31, amd64, arm64)
	s.index("stays", 0, amd64, s390x)
	p = s.plan()
	require.Equal(t, []string{"index"}, tags(p), "%v", p.Left)
	children := must(s.to.Children(tool, index))(t)
	require.ElementsMatch(t, []reference.Digest{reference.MustDigest(children[1].Digest.String()), reference.MustDigest(children[3].Digest.String())}, p.Repositories[0].Manifests,
		"an image and its attestation; the other image is below another index")
	s.record("default", "child", children[0].Digest.String(), 31)
	require.NoError(t, s.to.Tag(tool, "child", children[0].Digest.String()))
	require.Contains(t, why(s.plan(), "child"), "the tag stays")

	// Clients may still use the digests that a tag had earlier.
	s.Holdings[0].Tags[0].Earlier = []reference.Digest{reference.MustDigest(index)}
	require.Contains(t, why(s.plan(), "index"), "had earlier")
}

func must[T any](value T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		require.NoError(t, err)
		return value
	}
}

// TestCompanions: companions are deleted with their image, and only with it.
func TestCompanions(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{"fallback tags": nil, "referrers API": {registrytest.WithReferrersAPI(1)}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, options...)
			s.image("kept", "kept", 0)
			old := s.image("old", "old", 31)
			_ = must(s.to.PushSignature(tool, old))(t)
			referrer := must(s.to.PushReferrer(tool, old, "a/sbom"))(t)
			_ = must(s.to.PushSignature(tool, must(s.to.Digest(tool, "kept"))(t)))(t)
			p := s.plan()
			want := []string{"old", registrytest.SignatureTag(old)}
			if options == nil {
				want = []string{"old", reference.MustDigest(old).Algorithm() + "-" + reference.MustDigest(old).Hex(), registrytest.SignatureTag(old)}
			}
			require.Equal(t, want, tags(p))
			require.Equal(t, []reference.Digest{reference.MustDigest(referrer)}, p.Repositories[0].Manifests)
			require.Equal(t, old, p.Repositories[0].Tags[1].Of.String())

			require.NoError(t, s.to.Tag(tool, "by-others", old))
			require.Empty(t, tags(s.plan()))
		})
	}
}

// TestCaps: a plan to delete more than the caps is an error.
func TestCaps(t *testing.T) {
	caps := prune.Caps{All: prune.MustShare(10), PerRepository: prune.MustShare(50)}
	s := newSite(t)
	for n := range 10 {
		s.image(string(rune('a'+n)), string(rune('a'+n)), []int{0, 29}[n%2])
	}
	p := s.plan()
	require.Empty(t, tags(p), "within the grace period")
	require.NoError(t, caps.Check(p))
	s.Now = now.Add(2 * day)
	p = s.plan()
	require.Len(t, tags(p), 5)
	require.ErrorIs(t, caps.Check(p), prune.ErrCap)
	require.ErrorContains(t, caps.Check(p), "5 of 10 mirrored tags, more than --max 10%")
	caps.All = prune.MustShare(50)
	require.NoError(t, caps.Check(p))
	caps.PerRepository = prune.MustShare(49)
	require.ErrorContains(t, caps.Check(p), tool)
}
