package chunk

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// TestFewTags: a source that suddenly lists few tags, or none, is a failure with both numbers.
// The listed tags are mirrored, and the others do not count as vanished.
func TestFewTags(t *testing.T) {
	for name, test := range map[string]struct {
		body   string
		images run.Tally
		reason string
	}{
		"none":               {`{"tags":[]}`, run.Tally{Total: 1, Failed: 1}, "0, and listed at least 5 until "},
		"null":               {`{"tags":null}`, run.Tally{Total: 1, Failed: 1}, "0, and listed at least 5 until "},
		"few":                {`{"tags":["1","6"]}`, run.Tally{Total: 3, Copied: 1, Unchanged: 1, Failed: 1}, "2, and listed at least 5 until "},
		"and a strange name": {`{"tags":["1","../x"]}`, run.Tally{Total: 2, Unchanged: 1, Failed: 1}, "1, and listed at least 5 until "},
	} {
		t.Run(name, func(t *testing.T) {
			b := newHarness(t)
			b.push(t, "1", "2", "3", "4", "5")
			require.Empty(t, b.do(t, b.entry("")).Left)
			require.Equal(t, 5, b.images.Copied)

			b.push(t, "6")
			b.changes = nil
			restore := b.from.Inject(registrytest.Fault{Match: lists, Status: 200, Body: test.body})
			for range 2 { // later listings are not compared with the small number
				require.Empty(t, b.do(t, b.entry("")).Left)
				require.Contains(t, b.kept.only(t).Reason, "too few tags: the registry lists "+test.reason)
				require.Contains(t, b.kept.only(t).Reason, "if that is right, set min_tags")
				require.Equal(t, test.images.Total, b.images.Total)
				require.Equal(t, 1, b.images.Failed)
				for _, c := range b.changes {
					require.NotZero(t, c.To, "nothing has vanished: %v", c)
				}
			}
			restore()
			require.Empty(t, b.do(t, b.entry("")).Left)
			require.Empty(t, b.kept.records)
			b.mirrored(t, "1", "2", "3", "4", "5", "6")
		})
	}
}

// TestHalfOfTheTags: a source may lose half of its tags. Their number is then compared with the next
// listing.
func TestHalfOfTheTags(t *testing.T) {
	b := newHarness(t)
	b.push(t, "1", "2", "3", "4")
	require.Empty(t, b.do(t, b.entry("")).Left)
	for _, gone := range [][]string{{"1", "2"}, {"3"}} {
		for _, tag := range gone {
			require.NoError(t, b.from.Untag(repository, tag))
		}
		require.Empty(t, b.do(t, b.entry("")).Left)
		require.Empty(t, b.kept.records)
	}
}

// TestFewTagsOfALimit: the number of tags is also compared if only the newest ones were listed.
func TestFewTagsOfALimit(t *testing.T) {
	b := newHarnessBetween(t, registrytest.New(t, registrytest.WithQuayAPI(registrytest.BulkAPI{PageLimit: 2})), registrytest.New(t))
	client := b.Mirror.Registry
	b.Resolver = &resolve.Upstream{Registry: client, Listing: listing.New(listing.Options{Registry: client, QuayHosts: []string{b.from.Host()}})}
	b.push(t, "1", "2", "3", "4", "5")
	entry := b.entry("")
	entry.Selection = selection.Selection{Limit: 2}.Pointer()
	require.Empty(t, b.do(t, entry).Left)
	require.Equal(t, run.Tally{Total: 2, Copied: 2}, b.images)
	for _, tag := range []string{"1", "2", "3", "4", "5"} {
		require.NoError(t, b.from.Untag(repository, tag))
	}
	require.Empty(t, b.do(t, entry).Left)
	require.Equal(t, run.Tally{Total: 1, Failed: 1}, b.images)
	require.Contains(t, b.kept.only(t).Reason, "the registry lists 0, and listed at least 2 until ")
}
