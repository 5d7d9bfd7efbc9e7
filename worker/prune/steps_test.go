package prune_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

var sample = registrytest.NewSample(24)

// TestEveryStep: whichever request of a plan or its execution fails, once or from then on: no tag
// is planned or deleted that should stay, each tag reported as deleted is gone, and another
// execution deletes the rest.
func TestEveryStep(t *testing.T) {
	t.Parallel()
	type step struct {
		to        string
		execution bool
		registrytest.Step
	}
	var all []step
	for _, to := range []string{"distribution 3", "distribution 2", "Quay", "Harbor", "zot"} {
		s := newAged(t, to)
		p := s.plan()
		for _, at := range registrytest.Steps(len(s.to.Requests())) {
			all = append(all, step{to, false, at})
		}
		s.to.ResetRequests()
		done, _, err := s.execute(p)
		require.NoError(t, err)
		require.Equal(t, len(p.Repositories[0].Tags), done.Deleted)
		for _, at := range registrytest.Steps(len(s.to.Requests())) {
			all = append(all, step{to, true, at})
		}
	}
	for _, at := range registrytest.Some(t, all, sample) {
		t.Run(fmt.Sprintf("%s, execution %t, %s", at.to, at.execution, at.Step), func(t *testing.T) {
			t.Parallel()
			s := newAged(t, at.to)
			p := s.plan()
			wanted := tags(p)
			if !at.execution {
				mend := s.to.Take(at.Step)
				wrong, err := s.Plan(t.Context())
				mend()
				if err != nil {
					require.NotEmpty(t, err.Error())
					return
				}
				require.Subset(t, wanted, tags(wrong))
				p = wrong
				if len(p.Repositories) == 0 {
					return
				}
			} else {
				mend := s.to.Take(at.Step)
				done, left, err := s.execute(p)
				mend()
				s.intact(t, wanted)
				gone := slices.DeleteFunc(slices.Clone(wanted), func(tag string) bool { return slices.Contains(left, tag) })
				require.LessOrEqual(t, done.Deleted+done.Gone, len(gone), "%+v, %v", done, err)
				if len(gone) < len(wanted) && err == nil {
					require.NotZero(t, done.Failed+done.Skipped, "%+v", done)
				}
			}
			_, left, err := s.execute(p)
			require.NoError(t, err)
			s.intact(t, wanted)
			for _, tag := range tags(p) {
				require.NotContains(t, left, tag)
			}
		})
	}
}

// newAged returns a site with tags of every kind that are to be deleted, and others that stay.
func newAged(t *testing.T, to string) *site {
	t.Helper()
	d := destinations[to]
	s := newSite(t, d.options...)
	if d.hosts != nil {
		s.Hosts = d.hosts(s.to.Host())
	}
	s.Registry = registry.NewClient(registry.Options{
		Insecure: []string{s.to.Host()}, Keychain: robot{}, Transport: registrytest.NewTransport(700*time.Millisecond, s.to),
	})
	kept := s.image("kept", "kept", 0)
	old := s.image("old", "old", 31)
	s.image("alias", "old", 31)
	multi := s.index("multi", 31, amd64, arm64)
	s.index("stays", 0, amd64, s390x)
	for _, digest := range []string{old, multi, kept} {
		_ = must(s.to.PushSignature(tool, digest))(t)
	}
	_ = must(s.to.PushReferrer(tool, old, "a/sbom"))(t)
	_ = must(s.to.PushImage(tool, "stray", registrytest.Image{Version: "by others"}))(t)
	return s
}

// intact requires that all but these tags are there and whole.
func (s *site) intact(t *testing.T, but []string) {
	t.Helper()
	kept, err := s.to.Digest(tool, "kept")
	require.NoError(t, err)
	for _, tag := range []string{"kept", "stays", "stray", registrytest.SignatureTag(kept)} {
		require.NotContains(t, but, tag)
		require.NoError(t, s.to.Check(tool, tag))
	}
}
