package release

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/reference"
)

// TestReleases: a release belongs to one digest of one repository, and a foreign entry is not a release.
func TestReleases(t *testing.T) {
	b := brokertest.Embedded(t)
	s, err := Open(t.Context(), b)
	require.NoError(t, err)
	one, two := reference.DigestOf([]byte("one")), reference.DigestOf([]byte("two"))
	here, there := reference.MustRepository("quay.io/a/b"), reference.MustRepository("quay.io/a/c")
	has := func(r reference.Repository, digest reference.Digest) bool {
		t.Helper()
		found, err := s.Has(t.Context(), r, digest)
		require.NoError(t, err)
		return found
	}
	require.False(t, has(here, one))
	now := time.Now().UTC().Truncate(time.Second)
	first := Release{Repository: here, Digest: one, Tag: reference.MustTag("1"), By: "ada@host", At: now}
	second := Release{Repository: there, Digest: one, By: "ada@host", At: now.Add(time.Second)}
	require.NoError(t, s.Add(t.Context(), first))
	require.NoError(t, s.Add(t.Context(), second))
	require.True(t, has(here, one))
	require.False(t, has(here, two))
	require.Equal(t, "quay.io/a/b:1@"+one.String(), first.Image())

	// A release of another digest under the key does not count.
	_, err = s.kv.Put(t.Context(), key(here, two), []byte(`{"repository":"quay.io/a/b","digest":"`+one.String()+`"}`))
	require.NoError(t, err)
	require.False(t, has(here, two))
	_, err = s.kv.PutString(t.Context(), key(here, two), "{")
	require.NoError(t, err)
	require.False(t, has(here, two))
	all, err := s.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []Release{second, first}, all)
}
