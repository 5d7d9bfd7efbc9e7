package plan

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/planner/list"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/listing"
)

// upstream is a lister with fixed repositories.
type upstream struct {
	names   []string
	invalid []string
	err     error
}

func (u *upstream) List(_ context.Context, n reference.Namespace) (listing.Repositories, error) {
	found := listing.Repositories{Invalid: u.invalid}
	for _, name := range u.names {
		r, err := n.Repository(n.Path() + "/" + name)
		if err != nil {
			return found, err
		}
		found.Found = append(found.Found, r)
	}
	return found, u.err
}

// TestNamespaces: an upstream that is away, or that suddenly lists few repositories, removes
// nothing from a plan. A repository that has vanished causes one warning.
func TestNamespaces(t *testing.T) {
	dest, err := reference.ParseDestination("registry.example.com/mirror")
	require.NoError(t, err)
	u := &upstream{}
	b := brokertest.Embedded(t)
	x := &Namespaces{Broker: b, Name: "nightly", Lister: u}
	expand := func(text string) (names, failed, warnings []string, err error) {
		l, err := list.Parse([]byte(text), "s", dest, selection.Selection{})
		require.NoError(t, err)
		l, err = x.Expand(t.Context(), l)
		if err == nil {
			require.NoError(t, x.Remember(t.Context()))
			for _, e := range l.Entries {
				names = append(names, e.Repository.Path())
			}
		}
		for _, f := range x.Failed {
			failed = append(failed, f.String())
		}
		return names, failed, l.Warnings, err
	}
	const all = "containers: [quay.io/team/*]"
	const three = "containers: [{image: quay.io/team/*, min_repositories: 3}]"

	u.err = errors.New("no route")
	_, _, _, err = expand(all)
	require.ErrorIs(t, err, errNamespace)
	require.EqualError(t, err, "a namespace could not be listed: quay.io/team/* in line 1: no route; nothing was published")
	require.Equal(t, 3, exit.Code(err))
	u.err = nil
	_, _, _, err = expand(all)
	require.EqualError(t, err, "a namespace has too few repositories: quay.io/team/* in line 1: 0 are listed and chosen, expected at least 1; nothing was published")
	require.Equal(t, 2, exit.Code(err))

	u.names = []string{"a", "b", "c", "d", "e"}
	names, failed, warnings, err := expand(all)
	require.NoError(t, err)
	require.Empty(t, failed)
	require.Equal(t, []string{"team/a", "team/b", "team/c", "team/d", "team/e"}, names)
	require.Empty(t, warnings)

	u.names, u.err = nil, errors.New("no route")
	names, failed, warnings, err = expand(all)
	require.NoError(t, err)
	require.Len(t, names, 5)
	require.Regexp(t, `^quay.io/team/\* in line 1: it could not be listed: no route; the 5 repositories of \d{4}-\d\d-\d\d \d\d:\d\d:\d\d are mirrored instead$`, failed[0])
	require.Empty(t, warnings)

	u.names, u.err = []string{"a", "f"}, nil
	names, failed, warnings, err = expand(all)
	require.NoError(t, err)
	require.Equal(t, []string{"team/a", "team/b", "team/c", "team/d", "team/e", "team/f"}, names)
	require.Empty(t, warnings)
	require.Regexp(t, `it lists only 2 repositories; the 5 repositories of .* are mirrored instead; set min_repositories to accept fewer$`, failed[0])

	names, failed, warnings, err = expand(three)
	require.NoError(t, err)
	require.Len(t, names, 6)
	require.Regexp(t, `it lists only 2 repositories, expected at least 3; the 5 repositories of`, failed[0])
	require.Empty(t, warnings)

	u.names, u.invalid = []string{"a", "b", "f"}, []string{"team/../x"}
	names, failed, warnings, err = expand(three)
	require.NoError(t, err)
	require.Equal(t, []string{"team/a", "team/b", "team/f"}, names)
	require.Empty(t, failed)
	require.Equal(t, []string{
		"quay.io/team/* in line 1: no longer listed, and no longer mirrored: quay.io/team/c, quay.io/team/d, quay.io/team/e",
		`quay.io/team/* in line 1: it lists names that no repository can have: "team/../x"`,
	}, warnings)
	u.invalid = nil
	names, failed, warnings, err = expand(three)
	require.NoError(t, err)
	require.Len(t, names, 3)
	require.Empty(t, failed)
	require.Empty(t, warnings)

	// Two entries for one namespace keep a common note.
	u.names = nil
	for i := range 9 {
		u.names = append(u.names, fmt.Sprint("x", i), fmt.Sprint("y", i))
	}
	const both = "containers:\n- {image: quay.io/team/*, repositories: {include: x}}\n- {image: quay.io/team/*, repositories: {include: y}}"
	names, _, _, err = expand(both)
	require.NoError(t, err)
	require.Len(t, names, 18)
	u.names = u.names[:1]
	names, failed, warnings, err = expand(both)
	require.NoError(t, err)
	require.Len(t, names, 18)
	require.Len(t, failed, 2)
	require.Empty(t, warnings)
	names, _, _, err = expand(both)
	require.NoError(t, err)
	require.Len(t, names, 18)
}

// TestNamespacesInOneLine: a list may have all of its namespaces in one line, as JSON does.
func TestNamespacesInOneLine(t *testing.T) {
	dest, err := reference.ParseDestination("registry.example.com/mirror")
	require.NoError(t, err)
	l, err := list.Parse([]byte(`{"containers":["quay.io/a/*","quay.io/b/*",{"image":"quay.io/b/*","destination":"other"}]}`), "s", dest, selection.Selection{})
	require.NoError(t, err)
	x := &Namespaces{Broker: brokertest.Embedded(t), Name: "nightly", Lister: &upstream{names: []string{"x", "y"}}}
	l, err = x.Expand(t.Context(), l)
	require.NoError(t, err)
	var names []string
	for _, e := range l.Entries {
		names = append(names, e.Repository.Path())
	}
	require.Equal(t, []string{"a/x", "a/y", "b/x", "b/y"}, names)
}

// TestLargeNamespace: a note may be of any length, and is replaced as a whole.
func TestLargeNamespace(t *testing.T) {
	dest, err := reference.ParseDestination("registry.example.com/mirror")
	require.NoError(t, err)
	u := &upstream{}
	x := &Namespaces{Broker: brokertest.Embedded(t), Name: "nightly", Lister: u}
	kv, err := x.bucket(t.Context())
	require.NoError(t, err)
	const limit = maxNoted / 10
	expand := func() list.List {
		l, err := list.Parse([]byte("containers: [quay.io/team/*]"), "s", dest, selection.Selection{})
		require.NoError(t, err)
		l, err = x.Expand(t.Context(), l)
		require.NoError(t, err)
		for key, note := range x.noted {
			require.NoError(t, writeNote(t.Context(), kv, key, note, limit))
		}
		return l
	}
	long := strings.Repeat("x", 200)
	for _, n := range []int{500, 900, 600} {
		u.err, u.names = nil, nil
		for i := range n {
			u.names = append(u.names, fmt.Sprintf("%s-%d-%d", long, n, i))
		}
		require.Len(t, expand().Entries, n)
		u.err = errors.New("no route")
		require.Len(t, expand().Entries, n)
		require.Regexp(t, fmt.Sprintf(`no route; the %d repositories of`, n), x.Failed[0].Why)
	}

	keys, err := kv.Keys(t.Context())
	require.NoError(t, err)
	require.Len(t, keys, 3, "no page of an older note is left")

	// A note without one of its pages is ignored, because it would look like a smaller namespace.
	for _, key := range keys {
		if strings.HasSuffix(key, ".a.1") {
			require.NoError(t, kv.Delete(t.Context(), key))
		}
	}
	l, err := list.Parse([]byte("containers: [quay.io/team/*]"), "s", dest, selection.Selection{})
	require.NoError(t, err)
	_, err = x.Expand(t.Context(), l)
	require.ErrorIs(t, err, errNamespace)

	// The broker takes the largest pages.
	namespace, err := reference.ParseNamespace("quay.io/large/*")
	require.NoError(t, err)
	n := list.Namespace{Namespace: namespace}
	large := namespaceNote{Namespace: n.Namespace.String()}
	for i := range 3_000 {
		large.Repositories = append(large.Repositories, reference.MustRepository(fmt.Sprintf("quay.io/large/%s-%d", long, i)))
	}
	require.NoError(t, writeNote(t.Context(), kv, "large", large, maxNoted))
	got, err := readNote(t.Context(), kv, "large", n)
	require.NoError(t, err)
	require.Equal(t, 1, got.Pages)
	require.Equal(t, large.Repositories, got.Repositories)
}
