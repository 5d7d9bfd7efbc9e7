package prune_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/prune"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

var deletions = func(r registrytest.Request) bool { return r.Method == http.MethodDelete }

func (s *site) execution() *prune.Execution {
	return &prune.Execution{
		Survey: s.Survey, Log: slog.New(slog.DiscardHandler), Busy: func(context.Context) error { return nil },
		Forget: func(context.Context, reference.Repository, map[reference.Tag]reference.Digest) error { return nil },
	}
}

// execute carries out a plan, and returns its outcome and the tags that are left.
func (s *site) execute(p prune.Plan) (prune.Outcome, []string, error) {
	s.t.Helper()
	store, err := prune.OpenStore(s.t.Context(), brokertest.Embedded(s.t))
	require.NoError(s.t, err)
	lease, err := store.Take(s.t.Context(), p.Mirror, prune.Holder{Plan: p.ID(), Destination: p.Destination, By: "me", Process: "1"}, nil)
	require.NoError(s.t, err)
	done, failed := s.execution().Run(s.t.Context(), p, lease)
	tags, err := s.to.Tags(tool)
	require.NoError(s.t, err)
	return done, tags, failed
}

// TestExecute: exactly the tags of the plan are deleted, with what belongs to them.
func TestExecute(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{"fallback tags": nil, "referrers API": {registrytest.WithReferrersAPI(1)}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, options...)
			kept := s.image("kept", "kept", 0)
			old := s.image("old", "old", 31)
			s.image("alias", "old", 31)
			s.image("later", "later", 31)
			multi := s.index("multi", 31, amd64, arm64)
			s.index("stays", 0, amd64, s390x)
			_ = must(s.to.PushSignature(tool, old))(t)
			referrer := must(s.to.PushReferrer(tool, old, "a/sbom"))(t)
			_ = must(s.to.PushSignature(tool, kept))(t)
			children := must(s.to.Children(tool, multi))(t)
			p := s.plan()
			s.record("default", "young", s.image("young", "young", 31), 31)
			done, tags, err := s.execute(p)
			require.NoError(t, err)
			require.ElementsMatch(t, []string{"kept", "stays", "young", registrytest.SignatureTag(kept)}, tags)
			require.Equal(t, len(p.Repositories[0].Tags), done.Deleted)
			require.Zero(t, done.Skipped+done.Failed)
			for _, digest := range []string{old, multi, referrer, children[1].Digest.String()} {
				require.Error(t, s.to.Check(tool, digest), digest)
			}
			require.NoError(t, s.to.Check(tool, "kept"))
			require.NoError(t, s.to.Check(tool, "stays"))

			done, _, err = s.execute(p)
			require.NoError(t, err)
			require.Zero(t, done.Deleted)
			require.Equal(t, len(p.Repositories[0].Tags), done.Gone)
			require.Zero(t, done.Manifests)
		})
	}
}

// TestChanged: tags that have changed since the plan was made are skipped, and stay whole.
func TestChanged(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, s *site, multi string){
		"the tag has moved": func(t *testing.T, s *site, _ string) {
			_ = must(s.to.PushImage(tool, "multi", registrytest.Image{Version: "new"}))(t)
		},
		"the list names it":          func(_ *testing.T, s *site, _ string) { s.Entries = append(s.Entries, named(s, "multi")) },
		"the source has it":          func(_ *testing.T, s *site, _ string) { s.selected = append(s.selected, "multi") },
		"another tag has its digest": func(t *testing.T, s *site, multi string) { require.NoError(t, s.to.Tag(tool, "new", multi)) },
		"an index around it": func(t *testing.T, s *site, multi string) {
			_ = must(s.to.PushIndex(tool, "new", registrytest.Index{Indexes: []registrytest.Index{registrytest.MultiPlatform("index", amd64, arm64)}}))(t)
		},
		"it was mirrored again": func(_ *testing.T, s *site, _ string) {
			for i, tag := range s.Holdings[0].Tags {
				if tag.Name.String() == "multi" {
					s.Holdings[0].Tags[i].Dropped = now
				}
			}
		},
		"the list keeps it": func(_ *testing.T, s *site, _ string) {
			s.Entries[0].Selection = &selection.Selection{Keep: []string{"multi"}}
		},
		"it is not ours": func(_ *testing.T, s *site, _ string) {
			s.Holdings[0].Tags = slices.DeleteFunc(s.Holdings[0].Tags, func(t holding.Tag) bool { return t.Name.String() == "multi" })
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.image("kept", "kept", 0)
			s.image("old", "old", 31)
			multi := s.index("multi", 31, amd64, arm64)
			signature := must(s.to.PushSignature(tool, multi))(t)
			_ = must(s.to.PushReferrer(tool, multi, "a/sbom"))(t)
			p := s.plan()
			require.Len(t, tags(p), 4)
			change(t, s, multi)
			done, left, err := s.execute(p)
			require.NoError(t, err)
			require.Equal(t, 1, done.Deleted)
			require.NotContains(t, left, "old")
			require.Contains(t, left, "multi")
			require.NoError(t, s.to.Check(tool, multi))
			require.NoError(t, s.to.Check(tool, signature))
		})
	}
}

// TestUnread: if a repository cannot be read, all its tags count as failed.
func TestUnread(t *testing.T) {
	s := newSite(t)
	s.image("old", "old", 31)
	s.image("older", "older", 41)
	p := s.plan()
	s.failed = errors.New("unavailable")
	done, left, err := s.execute(p)
	require.ErrorIs(t, err, prune.ErrUndeleted)
	require.Equal(t, prune.Outcome{Failed: 2}, done)
	require.Len(t, left, 2)
}

func named(s *site, tag string) message.Repository {
	return message.Repository{Source: source, Destination: s.repository(tool), Tag: reference.MustTag(tag)}
}

// TestUndeletable: if a destination does not support deletion, the execution ends at once with that
// error.
func TestUndeletable(t *testing.T) {
	for name, test := range map[string]struct {
		fault registrytest.Fault
		says  string
	}{
		"distribution":  {registrytest.Fault{Status: 405, Body: `{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}`}, "storage.delete.enabled"},
		"400":           {registrytest.Fault{Status: 400, Body: `{"errors":[{"code":"UNSUPPORTED","message":"unsupported"}]}`}, "does not delete manifests"},
		"no permission": {registrytest.Fault{Status: 403, Body: `{"errors":[{"code":"DENIED","message":"denied"}]}`}, "the permission to delete"},
		"no login":      {registrytest.Fault{Status: 401}, "the permission to delete"},
		"broken":        {registrytest.Fault{Status: 500}, "unavailable"},
		"a lie":         {registrytest.Fault{Status: 202}, "still has it"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.image("old", "old", 31)
			s.image("older", "older", 41)
			p := s.plan()
			test.fault.Match = deletions
			remove := s.to.Inject(test.fault)
			s.to.ResetRequests()
			done, left, err := s.execute(p)
			require.ErrorIs(t, err, prune.ErrUndeleted)
			require.ErrorContains(t, err, test.says)
			require.Equal(t, prune.Outcome{Failed: 2}, done)
			require.Len(t, left, 2)
			require.LessOrEqual(t, s.to.Count(deletions), 2)
			require.Equal(t, test.fault.Status == 405 || test.fault.Status == 400, errors.Is(err, registry.ErrUndeletable))
			remove()
			done, left, err = s.execute(p)
			require.NoError(t, err)
			require.Equal(t, 2, done.Deleted)
			require.Empty(t, left)
		})
	}
}

// TestCutOff: a tag that an interrupted deletion has left without a manifest is deleted, and does
// not keep other tags.
func TestCutOff(t *testing.T) {
	for name, deletesTags := range map[string]bool{"tags are deleted": true, "manifests only": false} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.image("kept", "kept", 0)
			old := s.image("old", "old", 31)
			s.image("older", "older", 41)
			p := s.plan()
			require.NoError(t, s.to.DeleteManifest(tool, old))
			require.Equal(t, []string{"older"}, tags(s.plan()))
			if !deletesTags {
				s.to.Inject(registrytest.Fault{Match: func(r registrytest.Request) bool { return deletions(r) && r.Reference == "old" }, Status: 405})
			}
			forgotten := map[string]bool{}
			x := s.execution()
			x.Forget = func(_ context.Context, _ reference.Repository, tags map[reference.Tag]reference.Digest) error {
				for tag := range tags {
					forgotten[tag.String()] = true
				}
				return nil
			}
			done, err := x.Run(t.Context(), p, take(t, openStore(t, brokertest.Embedded(t)), p.ID(), "1"))
			require.NoError(t, err)
			require.Equal(t, prune.Outcome{Deleted: 1, Gone: 1}, done)
			require.Equal(t, deletesTags, forgotten["old"], "a plan must know that the tag cannot be read")
			left, err := s.to.Tags(tool)
			require.NoError(t, err)
			require.Equal(t, !deletesTags, slices.Contains(left, "old"))
		})
	}
}

// TestDeleteDisabled: distribution deletes nothing by default.
func TestDeleteDisabled(t *testing.T) {
	s := newSite(t, registrytest.WithoutDelete())
	s.image("old", "old", 31)
	_, left, err := s.execute(s.plan())
	require.ErrorIs(t, err, registry.ErrUndeletable)
	require.ErrorContains(t, err, "storage.delete.enabled")
	require.Equal(t, []string{"old"}, left)
}

// TestEdited: tags that the user removes from a plan stay whole, with what belongs to them.
func TestEdited(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{"fallback tags": nil, "referrers API": {registrytest.WithReferrersAPI(1)}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, options...)
			s.image("old", "old", 31)
			multi := s.index("multi", 31, amd64, arm64)
			referrer := must(s.to.PushReferrer(tool, multi, "a/sbom"))(t)
			p := s.plan()
			p.Repositories[0].Tags = slices.DeleteFunc(p.Repositories[0].Tags, func(t prune.Tag) bool { return t.Tag.String() == "multi" })
			done, _, err := s.execute(p)
			require.NoError(t, err)
			require.Equal(t, 1, done.Deleted)
			require.NoError(t, s.to.Check(tool, "multi"))
			require.NoError(t, s.to.Check(tool, referrer))
		})
	}
}

// TestAdded: tags that the user adds to a plan are deleted only if they would be planned.
func TestAdded(t *testing.T) {
	s := newSite(t)
	kept := s.image("kept", "kept", 0)
	old := s.image("old", "old", 31)
	foreign := must(s.to.PushImage(tool, "foreign", registrytest.Image{Version: "foreign"}))(t)
	untagged := must(s.to.PushImage(tool, "passing", registrytest.Image{Version: "untagged"}))(t)
	require.NoError(t, s.to.Tag(tool, "passing", kept))
	p := s.plan()
	r := &p.Repositories[0]
	for tag, digest := range map[string]string{"kept": kept, "foreign": foreign} {
		for _, of := range []reference.Digest{{}, reference.MustDigest(digest), reference.MustDigest(old), reference.MustDigest(untagged)} {
			r.Tags = append(r.Tags, prune.Tag{Tag: reference.MustTag(tag), Digest: reference.MustDigest(digest), Of: of})
		}
	}
	r.Manifests = append(r.Manifests, reference.MustDigest(untagged), reference.MustDigest(foreign), reference.MustDigest(kept))
	for range 2 {
		_, tags, err := s.execute(p)
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"kept", "passing", "foreign"}, tags)
		require.NoError(t, s.to.Check(tool, untagged))
	}

	s.image("old", "old", 31)
	p = s.plan()
	p.Repositories[0].Manifests = []reference.Digest{reference.MustDigest(untagged)}
	_, _, err := s.execute(p)
	require.NoError(t, err)
	require.NoError(t, s.to.Check(tool, untagged), "nothing of the plan was gone before")
}
