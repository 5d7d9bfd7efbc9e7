package check_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/check"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

const (
	signature = "application/vnd.dev.sigstore.bundle.v0.3+json"
	sbom      = "application/spdx+json"
)

func refer(t *testing.T, digest, kind string, all ...*registrytest.Registry) (referrer string) {
	t.Helper()
	for _, r := range all {
		var err error
		referrer, err = r.PushReferrer(tool, digest, kind)
		require.NoError(t, err)
	}
	return referrer
}

// TestReferrers: the referrers of unchanged, tagged and copied images are counted, recursively,
// without those that the destination has.
func TestReferrers(t *testing.T) {
	s := newSite(t, registrytest.WithReferrersAPI(1))
	s.both(t, "unchanged")
	unchanged, err := s.from.Digest(tool, "unchanged")
	require.NoError(t, err)
	bill := refer(t, unchanged, sbom, s.from, s.to)
	refer(t, bill, signature, s.from)
	refer(t, image(t, s.from, tool, "copied", "2"), sbom, s.from)
	both := index(t, s.from, tool, "multi", amd64, arm64)
	index(t, s.to, tool, "older-multi", amd64, arm64)
	children, err := s.from.Children(tool, both)
	require.NoError(t, err)
	for _, d := range []string{both, children[1].Digest.String()} {
		refer(t, d, signature, s.from)
	}
	entry := s.entry(tool)
	entry.Selection = &selection.Selection{Referrers: true}
	require.Empty(t, s.check(t, entry).Repositories[0].Failed)
	require.Equal(t, check.Counts{Copy: 1, Tag: 1, Unchanged: 1, Referrers: 4, Pulls: 1 + 4, BytesAtLeast: true}, s.check(t, entry).Totals.Counts)

	require.Equal(t, check.Counts{Copy: 1, Tag: 1, Unchanged: 1, Pulls: 1, BytesAtLeast: true}, s.check(t, s.entry(tool)).Totals.Counts,
		"nobody has asked for them")

	// If an index is to be copied, the images in it are not known, so the counts are lower bounds.
	index(t, s.from, tool, "new", amd64)
	counts := s.check(t, entry).Totals.Counts
	require.Equal(t, []any{2, 4, 2 + 4, true}, []any{counts.Copy, counts.Referrers, counts.Pulls, counts.PullsAtLeast})

	// If only some platforms are mirrored, the referrers of the source's own index are not.
	only := s.entry(tool)
	only.Selection = &selection.Selection{Referrers: true, List: []string{"multi"}, Platforms: []string{amd64}}
	require.Zero(t, s.check(t, only).Totals.Referrers)
}

// TestReferrersBelowNestedIndexes: referrers of images in nested indexes are counted.
func TestReferrersBelowNestedIndexes(t *testing.T) {
	s := newSite(t, registrytest.WithReferrersAPI(0))
	nested := registrytest.Index{Indexes: []registrytest.Index{{Images: []registrytest.Image{{Platform: amd64}}}}}
	top, err := s.from.PushIndex(tool, "1", nested)
	require.NoError(t, err)
	_, err = s.to.PushIndex(tool, "1", nested)
	require.NoError(t, err)
	s.to.ResetRequests()
	below, err := s.from.Children(tool, top)
	require.NoError(t, err)
	images, err := s.from.Children(tool, below[0].Digest.String())
	require.NoError(t, err)
	refer(t, images[0].Digest.String(), signature, s.from)
	entry := s.entry(tool)
	entry.Selection = &selection.Selection{Referrers: true}
	require.Equal(t, 1, s.check(t, entry).Totals.Referrers)
}

// TestReferrersToDo: a new signature of an unchanged image is something to do.
func TestReferrersToDo(t *testing.T) {
	s := newSite(t, registrytest.WithReferrersAPI(0))
	s.both(t, "1")
	entry := s.entry(tool)
	entry.Selection = &selection.Selection{Referrers: true}
	require.False(t, s.check(t, entry).ToDo())
	digest, err := s.from.Digest(tool, "1")
	require.NoError(t, err)
	refer(t, digest, signature, s.from)
	require.True(t, s.check(t, entry).ToDo())

	s.from.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindReferrers), Status: 403})
	report := s.check(t, entry)
	require.Len(t, report.Repositories[0].Failed, 1)
	require.Contains(t, report.Repositories[0].Failed[0].Reason, "list referrers of")
}

// TestReferrersBehindATag: without the referrers API, reading a list of referrers takes a pull. So
// the check counts the list as a tag, and the referrers as unknown, unless the destination has the
// same list.
func TestReferrersBehindATag(t *testing.T) {
	s := newSite(t)
	s.both(t, "1", "2")
	digest, err := s.from.Digest(tool, "1")
	require.NoError(t, err)
	refer(t, digest, signature, s.from)
	entry := s.entry(tool)
	entry.Selection = &selection.Selection{Referrers: true}
	require.Equal(t, check.Counts{Copy: 1, Unchanged: 2, Pulls: 2, PullsAtLeast: true, BytesAtLeast: true}, s.check(t, entry).Totals.Counts)

	refer(t, digest, signature, s.to)
	require.Equal(t, check.Counts{Unchanged: 3, Bytes: new(int64)}, s.check(t, entry).Totals.Counts)
}

// TestCompanions: signatures with their own tags are counted with their image; those of images in
// an index only if the destination has the index.
func TestCompanions(t *testing.T) {
	for name, chosen := range map[string]selection.Selection{
		"filter": {Include: []string{"v"}}, "list": {List: []string{"v1"}}, "list and referrers": {List: []string{"v1"}, Referrers: true},
	} {
		for _, lists := range []int{200, 403} {
			if lists != 200 && chosen.List == nil {
				continue
			}
			t.Run(name, func(t *testing.T) {
				s := newSite(t)
				digest := index(t, s.from, tool, "v1", amd64, arm64)
				children, err := s.from.Children(tool, digest)
				require.NoError(t, err)
				for _, digest := range []string{digest, children[0].Digest.String(), "sha256:" + strings.Repeat("1", 64)} {
					_, err := s.from.PushSignature(tool, digest)
					require.NoError(t, err)
				}
				if lists != 200 {
					s.from.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindTags), Status: lists})
				}
				entry := s.entry(tool)
				entry.Selection = &chosen
				counts := s.check(t, entry).Totals.Counts
				require.Equal(t, []any{2, true}, []any{counts.Copy, counts.PullsAtLeast}, "what is below the index is not known")

				index(t, s.to, tool, "v1", amd64, arm64)
				counts = s.check(t, entry).Totals.Counts
				require.Equal(t, []int{2, 1}, []int{counts.Copy, counts.Unchanged})
				for _, digest := range []string{digest, children[0].Digest.String()} {
					_, err := s.to.PushSignature(tool, digest)
					require.NoError(t, err)
				}
				require.Equal(t, check.Counts{Unchanged: 3, Bytes: new(int64)}, s.check(t, entry).Totals.Counts)
			})
		}
	}
}
