package prune_test

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/deletion"
	"github.com/osism/skopeo-worker/worker/prune"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// destinations are registries that delete in different ways.
var destinations = map[string]struct {
	options []registrytest.Option
	hosts   func(host string) deletion.Hosts
	alone   bool // deletes a tag alone
}{
	"distribution 3":    {},
	"distribution 2":    {options: []registrytest.Option{registrytest.WithDeletion(registrytest.DeletesDigests)}},
	"Quay":              {options: []registrytest.Option{registrytest.WithDeletion(registrytest.DeletesLikeQuay)}, hosts: quay, alone: true},
	"Quay, unknown":     {options: []registrytest.Option{registrytest.WithDeletion(registrytest.DeletesLikeQuay)}},
	"Harbor":            {options: harborOptions, hosts: harbor, alone: true},
	"Harbor, unknown":   {options: harborOptions},
	"Harbor, login":     {options: append(harborOptions[:2:2], registrytest.WithBasicAuth("robot", "secret")), hosts: harbor, alone: true},
	"zot":               {options: []registrytest.Option{registrytest.WithDeletion(registrytest.DeletesLikeZot), registrytest.WithReferrersAPI(10)}},
	"Artifact Registry": {options: []registrytest.Option{registrytest.WithDeletion(registrytest.DeletesLikeArtifactRegistry)}},
	"Nexus":             {options: []registrytest.Option{registrytest.WithDeletion(registrytest.DeletesLikeNexus)}},
	"tags together":     {options: []registrytest.Option{registrytest.WithDeletion(registrytest.DeletesTogether)}},
	"not Quay after all": {
		options: []registrytest.Option{registrytest.WithDeletion(registrytest.DeletesDigests)}, hosts: quay,
	},
	"not Harbor after all": {hosts: harbor},
}

var harborOptions = []registrytest.Option{registrytest.WithDeletion(registrytest.DeletesLikeHarbor), registrytest.WithHarborAPI(registrytest.BulkAPI{})}

func quay(host string) deletion.Hosts   { return deletion.NewHosts([]string{host}, nil) }
func harbor(host string) deletion.Hosts { return deletion.NewHosts(nil, []string{host}) }

// TestDestinations: at each kind of registry, everything that the plan deletes is gone with what
// belongs to it, and everything else is whole: other tags of the same digest, and images below two
// indexes.
func TestDestinations(t *testing.T) {
	t.Parallel()
	for name, test := range destinations {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, test.options...)
			if test.hosts != nil {
				s.Hosts = test.hosts(s.to.Host())
			}
			s.Registry = registry.NewClient(registry.Options{Insecure: []string{s.to.Host()}, Keychain: robot{}})
			kept := s.image("kept", "kept", 0)
			s.image("shared", "kept", 31)
			old := s.image("old", "old", 31)
			s.image("alias", "old", 31)
			multi := s.index("multi", 31, amd64, arm64)
			s.index("stays", 0, amd64, s390x)
			children := must(s.to.Children(tool, multi))(t)
			own := ""
			for _, child := range children {
				if child.Platform != nil && child.Platform.Architecture == "arm64" {
					own = child.Digest.String()
				}
			}
			require.NoError(t, s.to.Tag(tool, "a-child", own))
			s.record("default", "a-child", own, 31)
			_ = must(s.to.PushSignature(tool, old))(t)
			signature := must(s.to.PushSignature(tool, kept))(t)
			referrer := must(s.to.PushReferrer(tool, multi, "a/sbom"))(t)

			p := s.plan()
			if s.Hosts.Alone(s.repository(tool)) {
				require.Contains(t, tags(p), "shared")
			} else {
				require.Contains(t, why(p, "shared"), "its digest is needed by the tag kept")
			}
			done, left, err := s.execute(p)
			require.NoError(t, err)
			require.NotContains(t, left, "old")
			require.NotContains(t, left, "alias")
			require.NotContains(t, left, "multi")
			require.NotContains(t, left, "a-child")
			require.NotContains(t, left, registrytest.SignatureTag(old))
			require.Equal(t, !test.alone, slices.Contains(left, "shared"))
			require.Equal(t, test.hosts != nil && !test.alone, done.Skipped == 1)
			for _, stays := range []string{"kept", "stays", kept, signature, registrytest.SignatureTag(kept)} {
				require.NoError(t, s.to.Check(tool, stays), stays)
			}
			if name != "Quay" && name != "Quay, unknown" { // it keeps manifests without a tag until it collects garbage
				require.Error(t, s.to.Check(tool, own))
				require.Error(t, s.to.Check(tool, referrer))
			}
			require.Error(t, s.to.Check(tool, multi))
			require.Error(t, s.to.Check(tool, old))

			again, after, err := s.execute(p)
			require.NoError(t, err)
			require.Zero(t, again.Deleted)
			require.Equal(t, left, after)
		})
	}
}

// robot has the credentials of a robot account.
type robot struct{}

func (robot) Find(context.Context, string) (containers.Credential, error) {
	return containers.Credential{Username: "robot", Password: "secret"}, nil
}
func (robot) Forget(string) {}

// TestAlone: if the plan deletes a tag alone, the manifest stays, even if no tag needs it any more.
func TestAlone(t *testing.T) {
	s := newSite(t, registrytest.WithDeletion(registrytest.DeletesLikeQuay))
	s.Hosts = quay(s.to.Host())
	kept := s.image("kept", "kept", 0)
	s.image("shared", "kept", 31)
	p := s.plan()
	require.True(t, p.Repositories[0].Tags[0].Alone)
	require.Zero(t, p.Repositories[0].Tags[0].Bytes)
	require.NoError(t, s.to.Untag(tool, "kept"))
	_, _, err := s.execute(p)
	require.NoError(t, err)
	require.NoError(t, s.to.Check(tool, kept))
}

// TestReferenced: only the registry knows an index that has no tag. An image below it stays, with
// what belongs to it.
func TestReferenced(t *testing.T) {
	for name, d := range map[string]registrytest.Deletion{"Harbor": registrytest.DeletesLikeHarbor, "zot": registrytest.DeletesLikeZot} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, registrytest.WithDeletion(d))
			s.image("kept", "kept", 0)
			index := s.index("stays", 0, amd64)
			child := must(s.to.Children(tool, index))(t)[0].Digest.String()
			require.NoError(t, s.to.Tag(tool, "child", child))
			s.record("default", "child", child, 31)
			signature := must(s.to.PushSignature(tool, child))(t)
			require.NoError(t, s.to.Untag(tool, "stays"))
			s.image("old", "old", 31)
			p := s.plan()
			require.Contains(t, tags(p), "child")
			done, left, err := s.execute(p)
			require.NoError(t, err)
			require.Equal(t, prune.Outcome{Deleted: 1, Skipped: 2}, done)
			require.Contains(t, left, "child")
			require.NoError(t, s.to.Check(tool, index))
			require.NoError(t, s.to.Check(tool, signature))
		})
	}
}

// TestRefusals: if a destination refuses to delete, the error is one line and names what to change.
func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		options []registrytest.Option
		says    []string
	}{
		"immutable": {
			[]registrytest.Option{registrytest.WithDeletion(registrytest.DeletesLikeHarbor, "old")},
			[]string{"configured as immutable", "(412)", "may protect the tag as immutable"},
		},
		"nothing": {
			[]registrytest.Option{registrytest.WithDeletion(registrytest.DeletesNothing)},
			[]string{"does not delete manifests", "answered 404 and still has it"},
		},
		"distribution's default": {[]registrytest.Option{registrytest.WithoutDelete()}, []string{"(405)", "storage.delete.enabled"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, test.options...)
			s.image("kept", "kept", 0)
			s.image("old", "old", 31)
			done, left, err := s.execute(s.plan())
			require.ErrorIs(t, err, prune.ErrUndeleted)
			for _, text := range test.says {
				require.ErrorContains(t, err, text)
			}
			require.NotContains(t, err.Error(), "\n")
			require.Equal(t, 1, done.Failed)
			require.Equal(t, []string{"kept", "old"}, left)
		})
	}
}
