package chunk

import (
	"bytes"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// TestHEADLiesAtTheSource: if HEAD answers "not found" and GET returns the image, it is mirrored,
// and each GET counts as a pull.
func TestHEADLiesAtTheSource(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{
		"always": nil, "until a GET": {registrytest.WithHeadAfterGet()}, "without digests": {registrytest.WithoutDigestHeader()},
	} {
		t.Run(name, func(t *testing.T) {
			b := newHarnessBetween(t, registrytest.New(t, options...), registrytest.New(t))
			if name == "always" {
				b.from.Inject(registrytest.Fault{Match: heads, Status: 404})
			}
			b.push(t, registrytest.Numbered("%d", 12)...)
			b.index(t, "1", "both")
			require.Empty(t, b.do(t, b.entry("")).Left)
			require.Equal(t, run.Tally{Total: 13, Copied: 13}, b.images)
			require.Equal(t, b.from.Pulls(), b.pulls)
			b.mirrored(t, append(registrytest.Numbered("%d", 12), "both")...)

			b.reset()
			require.Empty(t, b.do(t, b.entry("")).Left)
			require.Equal(t, run.Tally{Total: 13, Unchanged: 13}, b.images)
			require.Equal(t, b.from.Pulls(), b.pulls)
			require.Zero(t, b.to.Count(puts))
		})
	}
}

// TestHEADLiesAtTheDestination: if HEAD answers "not found" and GET returns the image, it is
// neither copied nor put again.
func TestHEADLiesAtTheDestination(t *testing.T) {
	for name, s := range map[string]selection.Selection{
		"everything": {}, "platforms": {Platforms: []string{"linux/amd64"}}, "referrers": withReferrers,
	} {
		t.Run(name, func(t *testing.T) {
			b := newHarness(t)
			b.push(t, "1", "2")
			b.index(t, "3", "3")
			b.refer(t, b.move(t, "4", "4"), sbom)
			b.to.Inject(registrytest.Fault{Match: heads, Status: 404})
			require.Empty(t, b.do(t, b.selected("", s)).Left)
			require.Zero(t, b.images.Failed)

			b.reset()
			require.Empty(t, b.do(t, b.selected("", s)).Left)
			require.Equal(t, run.Tally{Total: b.images.Total, Unchanged: b.images.Total}, b.images)
			require.Zero(t, b.to.Count(puts))
			require.Zero(t, b.from.Count(blobs))
		})
	}
}

// TestVanished: a tag that the source lists and then denies counts as vanished and is logged. If
// all tags vanish, the repository fails until it has one again.
func TestVanished(t *testing.T) {
	var said bytes.Buffer
	b := newHarness(t)
	b.Log = slog.New(slog.NewTextHandler(&said, nil))
	b.push(t, "1", "2", "3")
	remove := b.from.Inject(registrytest.Fault{Match: registrytest.All(manifests, registrytest.Ref("2")), Status: 404})
	require.Empty(t, b.do(t, b.entry("")).Left)
	require.Equal(t, run.Tally{Total: 3, Copied: 2, Vanished: 1}, b.images)
	require.Equal(t, 1, b.outcomes["vanished"])
	require.Contains(t, said.String(), fmt.Sprintf(`level=INFO msg="vanished: the source has listed the tag and denies it" run=2 chunk=1 image=%s/%s:2`, b.from.Host(), repository))
	require.Empty(t, b.kept.records)
	remove()

	remove = b.from.Inject(registrytest.Fault{Match: manifests, Status: 404})
	require.Empty(t, b.do(t, b.entry("")).Left)
	require.Equal(t, run.Tally{Total: 4, Vanished: 3, Failed: 1}, b.images)
	failed := b.kept.only(t)
	require.Equal(t, b.from.Host()+"/"+repository, failed.Source)
	require.Equal(t, "list tags of "+failed.Source+": not found: the registry lists tags, and denies all 3 that were asked for", failed.Reason)
	require.Len(t, b.meant, 1, "a source that denies all that it lists has dropped nothing")

	remove()
	require.Empty(t, b.do(t, b.entry("")).Left)
	require.Len(t, b.meant, 2)
	require.Equal(t, run.Tally{Total: 3, Copied: 1, Unchanged: 2}, b.images)
	require.Empty(t, b.kept.records)
}

// TestUnselected: if a selection matches nothing, a warning names the repository.
func TestUnselected(t *testing.T) {
	var said bytes.Buffer
	b := newHarness(t)
	b.Log = slog.New(slog.NewTextHandler(&said, nil))
	b.push(t, "1", "2")
	require.Empty(t, b.do(t, b.selected("", selection.Selection{Include: []string{"v"}})).Left)
	require.Contains(t, said.String(), fmt.Sprintf(`level=WARN msg="the selection matches no tag of a repository" run=2 chunk=1 repository=%s/%s reason="FILTER, or the tags of the entry, match none of 2 tags"`, b.from.Host(), repository))
}

// TestNamedTagsDoNotVanish: if the source denies tags that the list names, they fail.
func TestNamedTagsDoNotVanish(t *testing.T) {
	listed := selection.Selection{List: []string{"1", "2"}}
	b := newHarness(t)
	b.push(t, "1")
	require.Empty(t, b.do(t, b.selected("", listed)).Left)
	require.Equal(t, run.Tally{Total: 2, Copied: 1, Failed: 1}, b.images)
	require.Equal(t, b.from.Host()+"/"+repository+":2", b.kept.only(t).Source)
	left := b.selected("", listed)
	left.Images = []message.Image{{Tag: reference.MustTag("2")}}
	b.deliver(t, Delivery{Chunk: b.chunk(left), Remainder: true})
	require.Equal(t, run.Tally{Total: 1, Failed: 1}, b.images)
}

// TestVanishedInAListingWithDigests: a tag that the registry's own API lists, and the OCI API
// denies, counts as vanished.
func TestVanishedInAListingWithDigests(t *testing.T) {
	quay := registrytest.New(t, registrytest.WithQuayAPI(registrytest.BulkAPI{}))
	b := newHarnessBetween(t, quay, registrytest.New(t))
	insecure := []string{quay.Host()}
	b.Resolver = &resolve.Upstream{Registry: b.Mirror.Registry, Listing: listing.New(listing.Options{
		Registry: b.Mirror.Registry, QuayHosts: insecure,
	})}
	b.push(t, "1", "2", "3")
	remove := b.from.Inject(registrytest.Fault{Match: manifests, Status: 404})
	require.Empty(t, b.do(t, b.entry("")).Left)
	require.Equal(t, run.Tally{Total: 4, Vanished: 3, Failed: 1}, b.images)
	require.Equal(t, b.from.Pulls(), b.pulls)
	require.Contains(t, b.kept.only(t).Reason, "denies all 3")
	require.Empty(t, b.meant)
	remove()

	digest, err := b.from.Digest(repository, "2")
	require.NoError(t, err)
	defer b.from.Inject(registrytest.Fault{Match: func(r registrytest.Request) bool {
		return manifests(r) && (r.Reference == "2" || r.Reference == digest)
	}, Status: 404})()
	require.Empty(t, b.do(t, b.entry("")).Left)
	require.Equal(t, run.Tally{Total: 3, Copied: 2, Vanished: 1}, b.images)
	require.Empty(t, b.kept.records)
}

// TestVanishedOverDeliveries: a repository fails only if all of its tags were looked up and denied.
// A later delivery knows which were found.
func TestVanishedOverDeliveries(t *testing.T) {
	limited := registrytest.Fault{Match: registrytest.All(gets, registrytest.Ref("3")), Status: 429, Times: 1}
	for name, held := range map[string]bool{"none is left": false, "one is left": true} {
		t.Run(name, func(t *testing.T) {
			b := newHarness(t)
			b.push(t, "1", "2", "3")
			denied := func(r registrytest.Request) bool {
				return manifests(r) && (!held || r.Reference == "2" || r.Reference == "3")
			}
			defer b.from.Inject(limited)()
			defer b.from.Inject(registrytest.Fault{Match: denied, Status: 404})()
			result := b.do(t, b.entry(""))
			require.Len(t, result.Left, 1)
			require.Empty(t, b.kept.records)
			result = b.deliver(t, Delivery{Chunk: b.chunk(result.Left...), Remainder: true})
			require.Empty(t, result.Left)
			if held {
				require.Equal(t, run.Tally{Total: 2, Copied: 1, Vanished: 1}, b.images)
				require.Empty(t, b.kept.records)
			} else {
				// It depends on timing how many tags were denied before the 429.
				require.Equal(t, run.Tally{Total: b.images.Vanished + 1, Vanished: b.images.Vanished, Failed: 1}, b.images)
				require.Contains(t, b.kept.only(t).Reason, "denies all ")
			}
		})
	}
}
