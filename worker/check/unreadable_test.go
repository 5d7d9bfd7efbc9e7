package check_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/check"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestUnreadableTag: a tag whose manifest cannot be read at the destination counts as to be tagged.
// Other tags are counted, even if it is the first.
func TestUnreadableTag(t *testing.T) {
	looks := registrytest.Kinds(registrytest.KindManifestHead, registrytest.KindManifestGet)
	for name, fault := range map[string]registrytest.Fault{
		"empty": {Status: 200}, "page": {Status: 200, Body: "<html></html>"}, "another": {Status: 200, Body: "{}"},
	} {
		for which, chosen := range map[string]selection.Selection{"": {}, "platforms": {Platforms: []string{amd64}}} {
			t.Run(name+which, func(t *testing.T) {
				s := newSite(t)
				for _, tag := range []string{"1", "2"} {
					image(t, s.from, tool, tag, tag)
					image(t, s.to, tool, tag, tag)
				}
				fault.Match = registrytest.All(looks, registrytest.Ref("1"))
				s.to.Inject(fault)
				entry := s.entry(tool)
				entry.Selection = chosen.Pointer()
				report := s.check(t, entry)
				require.Empty(t, report.Repositories[0].Failed)
				require.Equal(t, check.Counts{Tag: 1, Unchanged: 1, Bytes: new(int64)}, report.Totals.Counts)

				fault.Match = nil
				s.to.Inject(fault)
				require.Len(t, s.check(t, entry).Repositories[0].Failed, 1, "of the destination")
			})
		}
	}
}
