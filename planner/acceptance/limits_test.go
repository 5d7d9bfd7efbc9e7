package acceptance

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestNothingNew: nothing has changed in 234 repositories of 7 tags. Most of them are at a Quay of
// the user's own, which differs from quay.io only in its request limit: quay.io allows five
// requests per second.
func TestNothingNew(t *testing.T) {
	t.Parallel()
	const repositories, tags, atQuay, atHub = 234, 7, 10, 40
	o := newOnline(t, nil, nil)
	o.env["QUAY_HOSTS"] = o.Quay.Host()
	content := registrytest.Synthetic{Tags: registrytest.Numbered("2024.%d", tags)}
	var entries []string
	for i := range repositories {
		source, host, name := o.Quay, o.Quay.Host(), fmt.Sprintf("osism/service%03d", i)
		switch {
		case i < atQuay:
			host = "quay.io"
		case i < atQuay+atHub:
			source, host = o.Hub, "docker.io"
		}
		entries = append(entries, host+"/"+name)
		require.NoError(t, source.AddSynthetic(name, content))
		require.NoError(t, o.destination.AddSynthetic(prefix+"/"+name, content))
	}
	o.writeOnline(entries...)

	o.planner("mirror").exits(0)
	require.Equal(t, run.Tally{Total: repositories * tags, Unchanged: repositories * tags}, o.status().Images)
	require.Zero(t, o.status().Pulls)

	listed := count(o.Quay, listings, repository)
	require.Len(t, listed, repositories-atHub)
	require.Equal(t, 1, most(listed))
	require.Len(t, o.Quay.Requests(), repositories-atHub, "nothing but one listing each: no HEAD, no GET, no token")
	listed = count(o.Hub, listings, repository)
	require.Len(t, listed, atHub)
	require.Equal(t, 1, most(listed))
	require.Zero(t, o.Hub.Pulls())

	asked := count(o.destination, heads, func(r registrytest.Request) string { return r.Repository + ":" + r.Reference })
	require.Len(t, asked, repositories*tags)
	require.Equal(t, 1, most(asked))
	require.Zero(t, o.destination.Count(listings)+o.destination.Count(pulls)+o.destination.Count(puts))
}

// coldRun fills both registries with images that share layers: all images of a release have one base,
// and those of a repository another layer. It adds images for two platforms, aliases, and tags that
// must not be mirrored. It returns the other tags by repository.
func coldRun(t *testing.T, o *online) map[string][]string {
	t.Helper()
	for _, release := range []string{"2024.1", "2024.2"} {
		for i := range 3 {
			name := fmt.Sprintf("osism/service%d", i)
			for _, variant := range []string{"", "-debug"} {
				_, err := o.Quay.PushImage(name, release+variant, registrytest.Image{Version: release + variant, Layers: []registrytest.Layer{
					{Seed: "base " + release, Size: 300 << 10}, {Seed: name + release, Size: 100 << 10}, {Seed: name + release + variant, Size: 1 << 10},
				}})
				require.NoError(t, err)
			}
		}
		_, err := o.Hub.PushIndex("library/tool", release, registrytest.MultiPlatform(release, "linux/amd64", "linux/arm64"))
		require.NoError(t, err)
	}
	for name, r := range map[string]*registrytest.Registry{"osism/service0": o.Quay, "library/tool": o.Hub} {
		digest, err := r.Digest(name, "2024.2")
		require.NoError(t, err)
		require.NoError(t, r.Tag(name, "latest", digest))
	}
	_, err := o.Quay.PushImage("osism/service1", "dead", registrytest.Image{Version: "dead"})
	require.NoError(t, err)
	require.True(t, o.Quay.ExpireTag("osism/service1", "dead", time.Now().Add(-time.Hour)))
	require.True(t, o.Quay.ExpireTag("osism/service1", "2024.1", time.Now().Add(time.Hour)))
	_, err = o.Hub.PushIndex("library/tool", "nanoserver", registrytest.Index{Images: []registrytest.Image{{Platform: "windows/amd64"}}})
	require.NoError(t, err)
	four := []string{"2024.1", "2024.1-debug", "2024.2", "2024.2-debug"}
	return map[string][]string{
		"osism/service0": append([]string{"latest"}, four...), "osism/service1": four, "osism/service2": four,
		"library/tool": {"2024.1", "2024.2", "latest"},
	}
}

// TestColdRun: every manifest and blob is copied exactly once.
func TestColdRun(t *testing.T) {
	t.Parallel()
	o := newOnline(t,
		[]registrytest.Option{registrytest.WithQuayAPI(registrytest.BulkAPI{DeadTags: true, WithoutDigest: []string{"2024.2-debug"}})},
		[]registrytest.Option{registrytest.WithHubAPI(registrytest.BulkAPI{Inactive: []string{"2024.1"}})},
	)
	expected := coldRun(t, o)
	o.writeOnline("quay.io/osism/service0", "quay.io/osism/service1", "quay.io/osism/service2", "tool")
	o.planner("mirror").exits(0)

	manifests := 0
	for name, tags := range expected {
		source := o.Quay
		if name == "library/tool" {
			source = o.Hub
		}
		o.requireTags(source, name, tags...)
		distinct := map[string]int{}
		for _, tag := range tags {
			digest, err := source.Digest(name, tag)
			require.NoError(t, err)
			distinct[digest] = 1
			children, err := source.Children(name, digest)
			require.NoError(t, err)
			for _, child := range children {
				distinct[child.Digest.String()] = 1
			}
		}
		require.Equal(t, distinct, count(source, of(name, pulls), reference), "each manifest of %s is pulled once", name)
		manifests += len(distinct)
	}
	require.Equal(t, run.Tally{Total: 17, Copied: 14, Tagged: 2, Skipped: 1}, o.status().Images)
	require.Equal(t, manifests, o.status().Pulls)
	// The listing of quay.io does not state whether a digest is an index, and one tag has no digest
	// there.
	about := func(r registrytest.Request) string { return r.Repository + "@" + r.Reference }
	require.Equal(t, 1, most(count(o.Quay, heads, about)))
	require.Len(t, count(o.Quay, heads, about), 3)

	layers := count(o.Quay, blobs, reference)
	require.Equal(t, 1, most(layers), "layers travel once from quay.io: %v", layers)
	require.Equal(t, 1, most(count(o.Hub, blobs, reference)))
	require.Equal(t, 1, most(count(o.destination, uploads, reference)))
	require.Equal(t, len(layers)+len(count(o.Hub, blobs, reference)), len(count(o.destination, uploads, reference)))

	o.Quay.ResetRequests()
	o.Hub.ResetRequests()
	o.planner("mirror").exits(0)
	require.Equal(t, run.Tally{Total: 17, Unchanged: 16, Skipped: 1}, o.status().Images)
	require.Zero(t, o.Quay.Pulls()+o.Hub.Pulls())
}
