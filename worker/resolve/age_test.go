package resolve_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// TestNewerThan: the age of a tag is the time in the registry's listing, or otherwise the time
// since a run first saw its digest.
func TestNewerThan(t *testing.T) {
	o, internet := newOnline(t)
	for _, tag := range []string{"1", "2", "3"} {
		_, err := internet.Quay.PushImage("osism/tool", tag, registrytest.Image{Version: tag})
		require.NoError(t, err)
	}
	old := time.Now().Add(-100 * 24 * time.Hour)
	require.True(t, internet.Quay.SetTagTime("osism/tool", "1", old))
	wanted := message.Repository{Source: reference.MustRepository("quay.io/osism/tool")}
	wanted.Selection = selection.Selection{NewerThan: selection.Age(90 * 24 * time.Hour)}.Pointer()
	found, err := o.Resolve(t.Context(), wanted, resolve.Known{})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"2", "3"}, tagsOf(found.Images))

	plain, r, entry := newResolver(t)
	push(t, r, "1", "2", "3")
	entry.Selection = wanted.Selection
	digest := func(tag string) reference.Digest {
		digest, err := r.Digest(repository, tag)
		require.NoError(t, err)
		return reference.MustDigest(digest)
	}
	found, err = plain.Resolve(t.Context(), entry, resolve.Known{Sighted: map[reference.Tag]resolve.Sighting{
		reference.MustTag("1"): {Digest: digest("1"), Since: old}, reference.MustTag("2"): {Since: time.Now().Add(-time.Hour)},
	}})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"2", "3"}, tagsOf(found.Images), "3 was never seen, so it is new")
	all := map[reference.Tag]resolve.Sighting{}
	for _, tag := range []string{"1", "2", "3"} {
		all[reference.MustTag(tag)] = resolve.Sighting{Digest: digest(tag), Since: old}
	}
	found, err = plain.Resolve(t.Context(), entry, resolve.Known{Sighted: all})
	require.NoError(t, err)
	require.Empty(t, found.Images)
	require.Equal(t, "all of 3 tags are older than newer_than", found.Unselected)
	require.Len(t, found.All, 3)

	// A tag that moves is new again, and takes its place in a limit.
	moved, err := r.PushImage(repository, "1", registrytest.Image{Version: "moved"})
	require.NoError(t, err)
	for _, limit := range []int{0, 1} {
		entry.Selection.Limit = limit
		found, err = plain.Resolve(t.Context(), entry, resolve.Known{Sighted: all})
		require.NoError(t, err)
		require.Equal(t, []string{"1"}, tagsOf(found.Images))
		require.Equal(t, moved, found.Images[0].Digest.String())
		require.Len(t, found.All, 3)
	}
	defer r.Inject(registrytest.Fault{Match: registrytest.All(registrytest.Kinds(registrytest.KindManifestHead), registrytest.Ref("2")), Status: 503})()
	entry.Selection.Limit = 0
	found, err = plain.Resolve(t.Context(), entry, resolve.Known{Sighted: all})
	require.NoError(t, err)
	require.Len(t, found.Missed, 1, "whether it has moved is not known")
}

// TestMinTags: if a source lists too few tags, the listed ones are mirrored, and the repository
// fails.
func TestMinTags(t *testing.T) {
	u, r, entry := newResolver(t)
	push(t, r, "1", "2", "x")
	entry.Selection = selection.Selection{Include: []string{"[0-9]"}, MinTags: 3, Limit: 1}.Pointer()
	found, err := u.Resolve(t.Context(), entry, resolve.Known{})
	require.NoError(t, err)
	require.ErrorIs(t, found.Invalid, resolve.ErrFewTags)
	require.EqualError(t, found.Invalid, "list tags of "+entry.Source.String()+": too few tags: 2 match, expected at least 3 (min_tags)")
	require.Len(t, found.Images, 1)
	push(t, r, "3")
	found, err = u.Resolve(t.Context(), entry, resolve.Known{})
	require.NoError(t, err)
	require.NoError(t, found.Invalid)
}

// TestStandingOfNamedTags: if the source lists times, it is asked once since when the tags that the
// list names have their digests. The answer counts only for the same digest.
func TestStandingOfNamedTags(t *testing.T) {
	o, internet := newOnline(t, registrytest.WithQuayAPI(registrytest.BulkAPI{PageLimit: 2}))
	push(t, internet.Quay, "1", "2", "3")
	old := time.Now().Add(-100 * 24 * time.Hour).Truncate(time.Second)
	require.True(t, internet.Quay.SetTagTime(repository, "1", old))
	source := reference.MustRepository("quay.io/" + repository)
	aged := selection.Selection{MinAge: selection.Age(time.Hour)}
	named := aged
	named.List = []string{"1", "9"}
	one := reference.MustTag("1")
	for name, wanted := range map[string]message.Repository{
		"a tag":  {Source: source, Tag: one, Selection: &aged},
		"a list": {Source: source, Selection: &named},
	} {
		t.Run(name, func(t *testing.T) {
			internet.Quay.ResetRequests()
			found, err := o.Resolve(t.Context(), wanted, resolve.Known{})
			require.NoError(t, err)
			require.Len(t, found.Images, 1)
			require.Equal(t, found.Images[0].Digest, found.Listed[one].Digest)
			require.True(t, old.Equal(found.Listed[one].Updated), "%v", found.Listed[one].Updated)
			require.Equal(t, 2, internet.Quay.Count(pages))

			internet.Quay.ResetRequests()
			found, err = o.Resolve(t.Context(), wanted, resolve.Known{Sighted: map[reference.Tag]resolve.Sighting{one: {Digest: found.Images[0].Digest}}})
			require.NoError(t, err)
			require.Len(t, found.Images, 1)
			require.Zero(t, internet.Quay.Count(pages), "it was seen before")

			unfit := registrytest.Fault{Match: pages, Status: 429}
			restore := internet.Quay.Inject(unfit)
			_, err = o.Resolve(t.Context(), wanted, resolve.Known{})
			require.ErrorIs(t, err, registry.ErrLimited)
			restore()
			unfit.Status = 500
			defer internet.Quay.Inject(unfit)()
			_, err = o.Resolve(t.Context(), wanted, resolve.Known{})
			require.ErrorIs(t, err, registry.ErrUnavailable)
			wanted.Attempts = 2
			found, err = o.Resolve(t.Context(), wanted, resolve.Known{})
			require.NoError(t, err, "then it is new")
			require.Zero(t, found.Listed[one])
		})
	}
}

// TestLimitAndMinAge: tags that are too young take no places of the limit, and are shown as waiting
// if they are the newest.
func TestLimitAndMinAge(t *testing.T) {
	day := 24 * time.Hour
	aged := selection.Selection{MinAge: selection.Age(3 * day), Limit: 2}
	o, internet := newOnline(t, registrytest.WithQuayAPI(registrytest.BulkAPI{PageLimit: 2}))
	plain, r, entry := newResolver(t)
	tags, sighted := []string{"1.9", "1.8", "1.7", "1.6", "1.5", "1.4", "1.3", "1.2"}, map[reference.Tag]resolve.Sighting{}
	for i := len(tags) - 1; i >= 0; i-- { // one a day; the newest is first
		push(t, internet.Quay, tags[i])
		push(t, r, tags[i])
		since := time.Now().Add(-time.Duration(i)*day - time.Hour)
		require.True(t, internet.Quay.SetTagTime(repository, tags[i], since))
		if digest, err := r.Digest(repository, tags[i]); i < 7 {
			require.NoError(t, err)
			sighted[reference.MustTag(tags[i])] = resolve.Sighting{Digest: reference.MustDigest(digest), Since: since}
		}
	}
	wanted := message.Repository{Source: reference.MustRepository("quay.io/" + repository), Selection: &aged}
	found, err := o.Resolve(t.Context(), wanted, resolve.Known{})
	require.NoError(t, err)
	require.Equal(t, []string{"1.9", "1.8", "1.6", "1.5"}, tagsOf(found.Images))
	require.Equal(t, 3, internet.Quay.Count(pages), "the rest is older")

	entry.Selection = &aged
	found, err = plain.Resolve(t.Context(), entry, resolve.Known{})
	require.NoError(t, err)
	require.Equal(t, []string{"1.9", "1.8"}, tagsOf(found.Images), "none was ever seen")
	selected, err := plain.Select(t.Context(), entry)
	require.NoError(t, err)
	require.Len(t, selected.Selected, len(tags), "nothing is pruned that may be mirrored")
	selected, err = o.Select(t.Context(), wanted)
	require.NoError(t, err)
	require.Len(t, selected.Selected, 4)
	r.ResetRequests()
	found, err = plain.Resolve(t.Context(), entry, resolve.Known{Sighted: sighted})
	require.NoError(t, err)
	require.Equal(t, []string{"1.9", "1.8", "1.6", "1.5"}, tagsOf(found.Images))
	require.Equal(t, 4, r.Count(heads))

	// A tag that has just moved takes no place, either.
	_, err = r.PushImage(repository, "1.6", registrytest.Image{Version: "moved"})
	require.NoError(t, err)
	r.ResetRequests()
	found, err = plain.Resolve(t.Context(), entry, resolve.Known{Sighted: sighted})
	require.NoError(t, err)
	require.Equal(t, []string{"1.9", "1.8", "1.6", "1.5", "1.4"}, tagsOf(found.Images))
	require.Equal(t, 5, r.Count(heads))
	require.Len(t, found.Selected, 5)
}
