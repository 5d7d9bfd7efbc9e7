package waiting

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/release"
)

func tag(repository, name, content string) Tag {
	return Tag{Repository: reference.MustRepository(repository), Tag: reference.MustTag(name), Digest: reference.DigestOf([]byte(content)), Until: time.Unix(1e9, 0)}
}

// TestMeant: a name stands for the waiting digests under it, and a digest for itself.
func TestMeant(t *testing.T) {
	one, two, other := tag("quay.io/a/b", "1", "one"), tag("quay.io/a/b", "2", "two"), tag("quay.io/a/c", "1", "one")
	all := []Tag{one, two, other}
	digest := reference.DigestOf([]byte("unseen"))
	for name, want := range map[string][]Tag{
		"quay.io/a/b": {one, two}, "quay.io/a/b:2": {two}, "quay.io/a/c:1": {other}, "quay.io/a/c:2": nil, "quay.io/a": nil,
		"quay.io/a/d@" + digest.String(): {{Repository: reference.MustRepository("quay.io/a/d"), Digest: digest}},
	} {
		r, err := reference.Parse(name)
		require.NoError(t, err)
		got, err := Meant(r, all)
		require.Equal(t, want, got, name)
		if want == nil {
			require.ErrorIs(t, err, ErrNot, name)
			require.ErrorContains(t, err, "no run has left "+name+" waiting")
		} else {
			require.NoError(t, err, name)
		}
	}
}

// TestConfirmed: a digest is released only if it still waits as the user has seen it.
func TestConfirmed(t *testing.T) {
	one := tag("quay.io/a/b", "1", "one")
	other := tag("quay.io/a/c", "1", "one").Release("ada", time.Now())
	got, err := Confirmed(Tag{Repository: one.Repository, Tag: one.Tag, Digest: one.Digest}, []Tag{one}, []release.Release{other})
	require.NoError(t, err)
	require.Equal(t, one, got)
	for says, try := range map[string]func() (Tag, error){
		"no run has left quay.io/a/b:1 waiting":    func() (Tag, error) { return Confirmed(one, nil, nil) },
		"quay.io/a/b:1 has moved since you looked": func() (Tag, error) { return Confirmed(tag("quay.io/a/b", "1", "two"), []Tag{one}, nil) },
		"ada has released quay.io/a/b:1@": func() (Tag, error) {
			return Confirmed(one, []Tag{one}, []release.Release{one.Release("ada", time.Now())})
		},
	} {
		_, err := try()
		require.ErrorIs(t, err, ErrNot)
		require.ErrorContains(t, err, says)
	}
}
