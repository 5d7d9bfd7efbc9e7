package referrers_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/referrers"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

const absent = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

func client(registries ...*registrytest.Registry) *registry.Client {
	var hosts []string
	for _, r := range registries {
		hosts = append(hosts, r.Host())
	}
	return registry.NewClient(registry.Options{Insecure: hosts})
}

// family is an image with an SBOM and a signature, and a signature of the SBOM.
type family struct{ image, sbom, signature, signed string }

func push(t *testing.T, r *registrytest.Registry) family {
	t.Helper()
	var f family
	var err error
	f.image, err = r.PushImage("app", "1", registrytest.Image{})
	require.NoError(t, err)
	for _, step := range []struct {
		to            *string
		subject, kind string
	}{{&f.sbom, f.image, "a/sbom"}, {&f.signature, f.image, "a/signature"}} {
		*step.to, err = r.PushReferrer("app", step.subject, step.kind)
		require.NoError(t, err)
	}
	f.signed, err = r.PushReferrer("app", f.sbom, "a/signature")
	require.NoError(t, err)
	return f
}

func digests(list referrers.List) []string {
	var all []string
	for _, entry := range list.Referrers {
		all = append(all, entry.Digest.String())
	}
	slices.Sort(all)
	return all
}

func sorted(digests ...string) []string { return slices.Sorted(slices.Values(digests)) }

func TestFind(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{
		"by the API": {registrytest.WithReferrersAPI(1)}, "by the tag": nil,
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, options...)
			family := push(t, r)
			pulled := 0
			finder := referrers.Finder{Registry: client(r), Pulled: func(reference.Repository) { pulled++ }}
			repository := r.Host() + "/app"

			list, err := finder.Find(t.Context(), reference.MustRepository(repository), reference.MustDigest(family.image))
			require.NoError(t, err)
			require.Equal(t, sorted(family.sbom, family.signature), digests(list))
			require.Equal(t, options == nil, list.Tagged.Raw != nil)

			var visited [][]string
			require.NoError(t, finder.Walk(t.Context(), reference.MustRepository(repository), reference.MustDigest(family.image), func(list referrers.List) error {
				visited = append(visited, append([]string{list.Subject.String()}, digests(list)...))
				return nil
			}))
			require.Equal(t, [][]string{
				append([]string{family.image}, sorted(family.sbom, family.signature)...), {family.sbom, family.signed},
			}, visited)
			require.Equal(t, r.Pulls(), pulled)

			r.ResetRequests()
			none, err := finder.Find(t.Context(), reference.MustRepository(repository), reference.MustDigest(family.signed))
			require.NoError(t, err)
			require.Empty(t, none.Referrers)
			require.Len(t, r.Requests(), 1, "of an image without referrers")
			require.Zero(t, r.Pulls())

			stop := errors.New("stop")
			require.ErrorIs(t, finder.Walk(t.Context(), reference.MustRepository(repository), reference.MustDigest(family.image), func(referrers.List) error { return stop }), stop)
			r.Inject(registrytest.Fault{Status: http.StatusInternalServerError})
			_, err = finder.Find(t.Context(), reference.MustRepository(repository), reference.MustDigest(family.image))
			require.ErrorIs(t, err, registry.ErrUnavailable)
		})
	}
}

// TestFindWithoutAMediaType: an index is read if the answer to HEAD does not state that it is one. What
// is no index is ignored.
func TestFindWithoutAMediaType(t *testing.T) {
	for _, stated := range []string{"", "text/plain", "application/octet-stream"} {
		r := registrytest.New(t)
		family := push(t, r)
		_, err := r.PushImage("app", referrers.FallbackTag(reference.MustDigest(family.signed)).String(), registrytest.Image{})
		require.NoError(t, err)
		r.Inject(registrytest.Fault{Match: registrytest.Kinds(registrytest.KindManifestHead), Change: func(_ *http.Request, a *registrytest.Answer) {
			a.Header.Set("Content-Type", stated)
		}})
		finder := referrers.Finder{Registry: client(r)}
		list, err := finder.Find(t.Context(), reference.MustRepository(r.Host()+"/app"), reference.MustDigest(family.image))
		require.NoError(t, err)
		require.Equal(t, sorted(family.sbom, family.signature), digests(list))
		list, err = finder.Find(t.Context(), reference.MustRepository(r.Host()+"/app"), reference.MustDigest(family.signed))
		require.NoError(t, err)
		require.Empty(t, list.Referrers)
		require.Nil(t, list.Tagged.Raw)
	}
}

// TestWalkEnds: a walk ends, whatever the lists of referrers contain.
func TestWalkEnds(t *testing.T) {
	r := registrytest.New(t)
	one, err := r.PushImage("app", "1", registrytest.Image{Version: "1"})
	require.NoError(t, err)
	two, err := r.PushImage("app", "2", registrytest.Image{Version: "2"})
	require.NoError(t, err)
	list := func(subject string, listed ...string) {
		index := `{"schemaVersion":2,"mediaType":"` + string(types.OCIImageIndex) + `","manifests":[`
		for i, digest := range listed {
			if i > 0 {
				index += ","
			}
			index += `{"mediaType":"` + string(types.OCIManifestSchema1) + `","size":1,"digest":"` + digest + `"}`
		}
		_, err := r.PushManifest("app", referrers.FallbackTag(reference.MustDigest(subject)).String(), types.OCIImageIndex, []byte(index+"]}"))
		require.NoError(t, err)
	}
	finder := referrers.Finder{Registry: client(r)}
	list(one, two, one, two)
	list(two, one)
	subjects := 0
	count := func(referrers.List) error { subjects++; return nil }
	require.NoError(t, finder.Walk(t.Context(), reference.MustRepository(r.Host()+"/app"), reference.MustDigest(one), count))
	require.Equal(t, 2, subjects)

	list(one, slices.Repeat([]string{two}, 1001)...)
	require.ErrorIs(t, finder.Walk(t.Context(), reference.MustRepository(r.Host()+"/app"), reference.MustDigest(one), count), referrers.ErrTooMany)

	require.NoError(t, r.Tag("app", referrers.FallbackTag(reference.MustDigest(one)).String(), two))
	require.NoError(t, finder.Walk(t.Context(), reference.MustRepository(r.Host()+"/app"), reference.MustDigest(one), count), "an image lists nothing")
}

// TestMirrored: the referrers of an image are found at the destination, whether or not either
// registry has the referrers API.
func TestMirrored(t *testing.T) {
	api := []registrytest.Option{registrytest.WithReferrersAPI(0)}
	for name, test := range map[string]struct{ source, destination []registrytest.Option }{
		"API to API": {api, api}, "API to tag": {api, nil}, "tag to API": {nil, api}, "tag to tag": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := registrytest.New(t, test.source...), registrytest.New(t, test.destination...)
			family := push(t, src)
			c := client(src, dst)
			runner := skopeo.Runner{Insecure: []string{src.Host(), dst.Host()}}
			source, destination := src.Host()+"/app", dst.Host()+"/app"
			finder := referrers.Finder{Registry: c}
			mirror := func() error {
				return finder.Walk(t.Context(), reference.MustRepository(source), reference.MustDigest(family.image), func(list referrers.List) error {
					for _, entry := range list.Referrers {
						if err := runner.CopyManifest(t.Context(), reference.MustRepository(source), entry.Digest, reference.MustRepository(destination)); err != nil {
							return err
						}
					}
					return referrers.Announce(t.Context(), c, reference.MustRepository(destination), list)
				})
			}
			require.NoError(t, runner.CopyManifest(t.Context(), reference.MustRepository(source), reference.MustDigest(family.image), reference.MustRepository(destination)))
			require.NoError(t, mirror())

			list, err := finder.Find(t.Context(), reference.MustRepository(destination), reference.MustDigest(family.image))
			require.NoError(t, err)
			require.Equal(t, sorted(family.sbom, family.signature), digests(list))
			list, err = finder.Find(t.Context(), reference.MustRepository(destination), reference.MustDigest(family.sbom))
			require.NoError(t, err)
			require.Equal(t, []string{family.signed}, digests(list))
			tags, err := dst.Tags("app")
			if test.destination != nil {
				require.ErrorIs(t, err, registrytest.ErrNotFound, "no tag is needed")
				return
			}
			require.NoError(t, err)
			require.Equal(t, sorted(referrers.FallbackTag(reference.MustDigest(family.image)).String(), referrers.FallbackTag(reference.MustDigest(family.sbom)).String()), tags)
			for _, tag := range tags {
				require.NoError(t, dst.Check("app", tag))
			}
			if test.source == nil {
				same, err := src.Digest("app", referrers.FallbackTag(reference.MustDigest(family.image)).String())
				require.NoError(t, err)
				require.Equal(t, same, taggedDigest(t, dst, family.image))
			}
			dst.ResetRequests()
			require.NoError(t, finder.Walk(t.Context(), reference.MustRepository(source), reference.MustDigest(family.image), func(list referrers.List) error {
				return referrers.Announce(t.Context(), c, reference.MustRepository(destination), list)
			}))
			require.Zero(t, dst.Count(registrytest.Kinds(registrytest.KindManifestPut)), "nothing is missing")
		})
	}
}

func taggedDigest(t *testing.T, r *registrytest.Registry, digest string) string {
	t.Helper()
	tagged, err := r.Digest("app", referrers.FallbackTag(reference.MustDigest(digest)).String())
	require.NoError(t, err)
	return tagged
}

// TestAnnounceKeepsWhatIsThere: the destination's own signature stays in the list.
func TestAnnounceKeepsWhatIsThere(t *testing.T) {
	src, dst := registrytest.New(t), registrytest.New(t)
	family := push(t, src)
	c := client(src, dst)
	_, err := dst.PushImage("app", "1", registrytest.Image{})
	require.NoError(t, err)
	own, err := dst.PushReferrer("app", family.image, "a/own")
	require.NoError(t, err)
	before, err := dst.Children("app", referrers.FallbackTag(reference.MustDigest(family.image)).String())
	require.NoError(t, err)
	runner := skopeo.Runner{Insecure: []string{src.Host(), dst.Host()}}
	finder := referrers.Finder{Registry: c}
	list, err := finder.Find(t.Context(), reference.MustRepository(src.Host()+"/app"), reference.MustDigest(family.image))
	require.NoError(t, err)
	for _, entry := range list.Referrers {
		require.NoError(t, runner.CopyManifest(t.Context(), reference.MustRepository(src.Host()+"/app"), entry.Digest, reference.MustRepository(dst.Host()+"/app")))
	}
	require.NoError(t, referrers.Announce(t.Context(), c, reference.MustRepository(dst.Host()+"/app"), list))

	after, err := dst.Children("app", referrers.FallbackTag(reference.MustDigest(family.image)).String())
	require.NoError(t, err)
	theirs, err := src.Children("app", referrers.FallbackTag(reference.MustDigest(family.image)).String())
	require.NoError(t, err)
	slices.SortFunc(theirs, func(a, b v1.Descriptor) int { return slices.Compare([]byte(a.Digest.Hex), []byte(b.Digest.Hex)) })
	require.Equal(t, own, after[0].Digest.String())
	require.Equal(t, append(before, theirs...), after)

	require.NoError(t, dst.Tag("app", referrers.FallbackTag(reference.MustDigest(family.image)).String(), own))
	require.ErrorIs(t, referrers.Announce(t.Context(), c, reference.MustRepository(dst.Host()+"/app"), list), referrers.ErrOccupied)
	require.NoError(t, referrers.Announce(context.Background(), c, reference.MustRepository(dst.Host()+"/app"), referrers.List{Subject: reference.MustDigest(absent)}), "nothing to say")
}

func TestFallback(t *testing.T) {
	entry := func(n string) registry.Entry {
		digest := "sha256:" + n + absent[8:]
		return registry.Entry{Descriptor: registry.Descriptor{Digest: reference.MustDigest(digest)}, Raw: []byte(`{ "digest":"` + digest + `","artifactType":"a/b" }`)}
	}
	a, b := entry("a"), entry("b")
	one, changed, err := referrers.Fallback(registry.Manifest{}, referrers.List{Referrers: []registry.Entry{b, a}})
	require.NoError(t, err)
	require.True(t, changed)
	require.Equal(t, `{"manifests":[{"digest":"`+a.Digest.String()+`","artifactType":"a/b"},{"digest":"`+b.Digest.String()+`","artifactType":"a/b"}],`+
		`"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}`, string(one.Raw))
	two, _, err := referrers.Fallback(registry.Manifest{}, referrers.List{Referrers: []registry.Entry{a, b}})
	require.NoError(t, err)
	require.Equal(t, one, two)
	_, changed, err = referrers.Fallback(one, referrers.List{Referrers: []registry.Entry{b}})
	require.NoError(t, err)
	require.False(t, changed)

	// A referrer that could not be mirrored is not announced, although the source lists it.
	some, _, err := referrers.Fallback(registry.Manifest{}, referrers.List{Referrers: []registry.Entry{a}, Tagged: one})
	require.NoError(t, err)
	require.NotContains(t, string(some.Raw), b.Digest.String())
}
