package prune_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// belongings are the manifests that belong to each manifest of a repository: signatures, referrers,
// and lists of referrers.
type belongings map[string][]string

// whole returns a manifest with everything below it, and the belongings of each.
func (b belongings) whole(s *site, dgst string, found map[string]bool) map[string]bool {
	if found[dgst] {
		return found
	}
	found[dgst] = true
	children, _ := s.to.Children(tool, dgst) // none if it is not an index
	for _, child := range children {
		b.whole(s, child.Digest.String(), found)
	}
	for _, other := range b[dgst] {
		b.whole(s, other, found)
	}
	return found
}

func keys(set map[string]bool) (all []string) {
	for key := range set {
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}

// TestBelow: with an index, the manifests below it at any depth are deleted, with their signatures,
// attestations and referrers, and the referrers of those. Manifests that another index shares stay,
// with what belongs to them.
func TestBelow(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]registrytest.Option{
		"distribution":                nil,
		"distribution, referrers API": {registrytest.WithReferrersAPI(1)},
		"zot":                         {registrytest.WithDeletion(registrytest.DeletesLikeZot), registrytest.WithReferrersAPI(10)},
		"Harbor":                      {registrytest.WithDeletion(registrytest.DeletesLikeHarbor), registrytest.WithReferrersAPI(10)},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, options...)
			index := registrytest.MultiPlatform("index", amd64, arm64)
			index.Indexes = []registrytest.Index{registrytest.MultiPlatform("nested", arm64)}
			multi := must(s.to.PushIndex(tool, "multi", index))(t)
			s.record("default", "multi", multi, 31)
			stays := s.index("stays", 0, amd64, s390x)
			kept := s.image("kept", "kept", 0)

			b, images := belongings{}, map[string]bool{}
			for _, top := range []string{multi, stays, kept} {
				b.whole(s, top, images)
			}
			for _, subject := range keys(images) {
				signature := must(s.to.PushSignature(tool, subject))(t)
				sbom := must(s.to.PushReferrer(tool, subject, "a/sbom"))(t)
				b[subject] = []string{signature, sbom}
				b[sbom] = []string{must(s.to.PushReferrer(tool, sbom, "a/signature"))(t)}
				require.NoError(t, s.to.Tag(tool, strings.TrimSuffix(registrytest.SignatureTag(subject), ".sig")+".att", signature))
				if options == nil {
					for _, of := range []string{subject, sbom} {
						b[of] = append(b[of], must(s.to.Digest(tool, strings.TrimSuffix(registrytest.SignatureTag(of), ".sig")))(t))
					}
				}
			}
			want := b.whole(s, stays, b.whole(s, kept, map[string]bool{}))
			going := map[string]bool{}
			for dgst := range b.whole(s, multi, map[string]bool{}) {
				if !want[dgst] {
					going[dgst] = true
				}
			}
			require.Len(t, s.to.Digests(tool), len(want)+len(going), "the world has nothing else")
			require.Greater(t, len(going), 20)

			p := s.plan()
			planned := map[string]bool{}
			for _, tag := range p.Repositories[0].Tags {
				planned[tag.Digest.String()] = true
			}
			for _, dgst := range p.Repositories[0].Manifests {
				planned[dgst.String()] = true
			}
			require.Equal(t, keys(going), keys(planned))
			_, left, err := s.execute(p)
			require.NoError(t, err)
			require.Equal(t, keys(want), s.to.Digests(tool))
			for _, tag := range left {
				require.True(t, want[must(s.to.Digest(tool, tag))(t)], tag)
			}
		})
	}
}
