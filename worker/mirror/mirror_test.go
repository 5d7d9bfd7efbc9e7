package mirror_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/mirrortest"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

const (
	repository  = "osism/deep/path/of/tool"
	destination = "mirror/" + repository
)

var (
	gets = registrytest.Kinds(registrytest.KindManifestGet)
	puts = registrytest.Kinds(registrytest.KindManifestPut)
)

// pair is a source and a destination with a mirror between them.
type pair struct {
	*mirror.Mirror
	from, to *registrytest.Registry
}

func newPair(t *testing.T, options ...registrytest.Option) *pair {
	t.Helper()
	return newPairBetween(t, registrytest.New(t, options...), registrytest.New(t))
}

func newPairBetween(t *testing.T, from, to *registrytest.Registry) *pair {
	insecure := []string{from.Host(), to.Host()}
	return &pair{from: from, to: to, Mirror: mirrortest.New(t, registry.NewClient(registry.Options{Insecure: insecure}), engine(t, insecure))}
}

func (p *pair) source() string      { return p.from.Host() + "/" + repository }
func (p *pair) destination() string { return p.to.Host() + "/" + destination }

func (p *pair) target(tag string) mirror.Target {
	return mirror.Target{Repository: reference.MustRepository(p.destination()), Tag: reference.MustTag(tag)}
}

// mirror copies the image that a tag of the source names, and tags it at the destination.
func (p *pair) mirror(t *testing.T, tag string) (mirror.Copied, error) {
	t.Helper()
	d, err := p.Registry.Find(t.Context(), reference.MustRepository(p.source()), reference.MustTag(tag))
	require.NoError(t, err)
	cost, err := p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), d, platform.Wanted{})
	if err != nil {
		return cost, err
	}
	return cost, p.Tag(t.Context(), p.target(tag), d.Digest)
}

// same requires that the destination has the source's tag byte for byte, with everything that its
// manifest refers to.
func (p *pair) same(t *testing.T, tag string) {
	t.Helper()
	want, err := p.from.Manifest(repository, tag)
	require.NoError(t, err)
	got, err := p.to.Manifest(destination, tag)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
	require.NoError(t, p.to.Check(destination, tag))
}

// TestEveryKindOfContent: content of each kind is mirrored under its digest, with one pull for each
// manifest, and nothing else is written.
func TestEveryKindOfContent(t *testing.T) {
	index := registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64/v8")
	index.ArtifactType, index.Annotations = "application/vnd.example", map[string]string{"org.example.unknown": "yes"}
	docker := registrytest.Index{Docker: true, Images: []registrytest.Image{{Platform: "linux/amd64"}, {Platform: "linux/s390x"}}}
	image := func(i registrytest.Image) func(*registrytest.Registry, string) (string, error) {
		return func(r *registrytest.Registry, tag string) (string, error) { return r.PushImage(repository, tag, i) }
	}
	for name, test := range map[string]struct {
		push  func(r *registrytest.Registry, tag string) (string, error)
		tag   string // if the content needs a tag of its own
		pulls int
	}{
		"OCI index with attestations": {pulls: 5, push: func(r *registrytest.Registry, tag string) (string, error) {
			return r.PushIndex(repository, tag, index)
		}},
		"Docker list": {pulls: 3, push: func(r *registrytest.Registry, tag string) (string, error) {
			return r.PushIndex(repository, tag, docker)
		}},
		"index inside an index": {pulls: 4, push: func(r *registrytest.Registry, tag string) (string, error) {
			return r.PushIndex(repository, tag, registrytest.Index{
				Images:  []registrytest.Image{{Platform: "linux/amd64"}},
				Indexes: []registrytest.Index{{Images: []registrytest.Image{{Platform: "linux/arm64"}}}},
			})
		}},
		"empty index": {pulls: 1, push: func(r *registrytest.Registry, tag string) (string, error) {
			return r.PushManifest(repository, tag, types.OCIImageIndex, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[]}`, types.OCIImageIndex))
		}},
		"OCI image":    {pulls: 1, push: image(registrytest.Image{})},
		"Docker image": {pulls: 1, push: image(registrytest.Image{Docker: true})},
		"zstd layers":  {pulls: 1, push: image(registrytest.Image{Layers: []registrytest.Layer{{Seed: "z", Size: 5000, Zstd: true}}})},
		"long tag":     {pulls: 1, tag: registrytest.LongTag, push: image(registrytest.Image{Version: "long"})},
		"Helm chart": {pulls: 1, push: func(r *registrytest.Registry, tag string) (string, error) {
			return r.PushChart(repository, tag)
		}},
		"cosign signature": {pulls: 1, tag: registrytest.SignatureTag("sha256:" + strings.Repeat("ab", 32)),
			push: func(r *registrytest.Registry, _ string) (string, error) {
				return r.PushSignature(repository, "sha256:"+strings.Repeat("ab", 32))
			}},
		"manifest with a subject": {pulls: 1, push: image(registrytest.Image{Subject: &v1.Descriptor{
			MediaType: types.OCIManifestSchema1, Size: 7, Digest: v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("cd", 32)},
		}})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			tag := "1.0"
			if test.tag != "" {
				tag = test.tag
			}
			_, err := test.push(p.from, tag)
			require.NoError(t, err)

			cost, err := p.mirror(t, tag)
			require.NoError(t, err)
			p.same(t, tag)
			require.Equal(t, test.pulls, cost.Pulls)
			require.Equal(t, test.pulls, p.from.Count(gets))
			names, err := p.to.Tags(destination)
			require.NoError(t, err)
			require.Equal(t, []string{tag}, names)
			repositories, err := p.to.Repositories()
			require.NoError(t, err)
			require.Equal(t, []string{destination}, repositories)

			// A second copy sends no request to the source, and puts nothing.
			p.from.ResetRequests()
			p.to.ResetRequests()
			digest, err := p.from.Digest(repository, tag)
			require.NoError(t, err)
			cost, err = p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), registry.Descriptor{Digest: reference.MustDigest(digest)}, platform.Wanted{})
			require.NoError(t, err)
			require.Equal(t, mirror.Copied{Digest: reference.MustDigest(digest)}, cost, "the destination has it, so the source is not asked")
			require.Empty(t, p.from.Requests())
			require.Zero(t, p.to.Count(puts))
		})
	}
}

// TestSharedChildIsPulledOnce: images that two indexes share are pulled once, although the indexes are
// copied at the same time.
func TestSharedChildIsPulledOnce(t *testing.T) {
	p := newPair(t)
	shared := []registrytest.Image{{Platform: "linux/amd64"}, {Platform: "linux/arm64"}}
	for _, tag := range []string{"1", "2"} {
		_, err := p.from.PushIndex(repository, tag, registrytest.Index{
			Images: append(slices.Clone(shared), registrytest.Image{Platform: "linux/riscv64", Version: tag}),
		})
		require.NoError(t, err)
	}
	var group errgroup.Group
	pulls := make([]int, 2)
	var bytes [2]int64
	for i, tag := range []string{"1", "2"} {
		group.Go(func() error {
			cost, err := p.mirror(t, tag)
			pulls[i], bytes[i] = cost.Pulls, cost.Bytes
			return err
		})
	}
	require.NoError(t, group.Wait())
	p.same(t, "1")
	p.same(t, "2")
	require.Equal(t, 2+4, p.from.Count(gets), "two indexes and four different images")
	require.Equal(t, 6, pulls[0]+pulls[1])
	require.NotZero(t, bytes[0]+bytes[1])
}

// TestUnstatedTypes: the media type of a manifest may be unknown, as for a pinned digest, or wrong, as
// some registries state it in answers to HEAD.
func TestUnstatedTypes(t *testing.T) {
	p := newPair(t)
	digest, err := p.from.PushIndex(repository, "1", registrytest.MultiPlatform("1", "linux/amd64"))
	require.NoError(t, err)
	image, err := p.from.PushImage(repository, "2", registrytest.Image{Version: "2"})
	require.NoError(t, err)
	for i, kind := range []string{"text/plain", ""} {
		to := fmt.Sprint(destination, i)
		_, err := p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.to.Host()+"/"+to), registry.Descriptor{Digest: reference.MustDigest(digest), MediaType: kind}, platform.Wanted{})
		require.NoError(t, err)
		require.NoError(t, p.Tag(t.Context(), mirror.Target{Repository: reference.MustRepository(p.to.Host() + "/" + to), Tag: reference.MustTag("1")}, reference.MustDigest(digest)))
		require.NoError(t, p.to.Check(to, digest))
	}
	cost, err := p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), registry.Descriptor{Digest: reference.MustDigest(image), MediaType: "text/plain"}, platform.Wanted{})
	require.NoError(t, err)
	require.Equal(t, 1, cost.Pulls, "the manifest that was pulled is put")
	require.NoError(t, p.Tag(t.Context(), p.target("2"), reference.MustDigest(image)))
	require.NoError(t, p.to.Check(destination, image))
}

// TestAttestationsTakeNoProcess: if the destination has the images, the attestations are copied
// without skopeo.
func TestAttestationsTakeNoProcess(t *testing.T) {
	p := newPair(t)
	p.Engine = &skopeo.Runner{Path: "/no/such/skopeo"}
	index := registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64")
	digest, err := p.from.PushIndex(repository, "1", index)
	require.NoError(t, err)
	for _, image := range index.Images {
		image.Layers = []registrytest.Layer{{Seed: fmt.Sprint(repository, " ", image.Version, " ", image.Platform), Size: 1 << 10}}
		_, err := p.to.PushImage(destination, "", image)
		require.NoError(t, err)
	}
	p.from.ResetRequests()
	copied, err := p.mirror(t, "1")
	require.NoError(t, err)
	require.Equal(t, digest, copied.Digest.String())
	require.Equal(t, 3, copied.Pulls)
	require.Equal(t, 3, p.from.Count(gets))
	require.NotZero(t, copied.Bytes)
	p.same(t, "1")
}

// TestAttestationsGoBesideImages: an attestation that fails does not end the copy of the image, whose
// pull would be lost.
func TestAttestationsGoBesideImages(t *testing.T) {
	p := newPair(t)
	_, err := p.from.PushIndex(repository, "1", registrytest.MultiPlatform("1", "linux/amd64"))
	require.NoError(t, err)
	index, err := p.Registry.Get(t.Context(), reference.MustRepository(p.source()), reference.MustTag("1"))
	require.NoError(t, err)
	entries, err := index.Entries()
	require.NoError(t, err)
	require.Len(t, entries, 2)
	require.True(t, platform.Attestation(entries[1]))
	image, attestation := entries[0].Digest, registrytest.All(gets, registrytest.Ref(entries[1].Digest.String()))
	refused := make(chan struct{})
	defer p.from.Inject(registrytest.Fault{Match: registrytest.All(gets, registrytest.Ref(image.String())), Gate: refused})()
	remove := p.from.Inject(registrytest.Fault{Match: attestation, Status: http.StatusInternalServerError})
	asked := p.from.Notify(attestation)
	go func() {
		defer close(refused)
		select {
		case <-asked:
		case <-time.After(time.Minute):
			t.Error("the attestation waits for the image")
		}
	}()
	p.from.ResetRequests()
	_, err = p.mirror(t, "1")
	require.ErrorContains(t, err, entries[1].Digest.String())
	require.NoError(t, p.to.Check(destination, image.String()))

	remove()
	p.from.ResetRequests()
	_, err = p.mirror(t, "1")
	require.NoError(t, err)
	require.Zero(t, p.from.Count(registrytest.All(gets, registrytest.Ref(image.String()))))
	p.same(t, "1")
}

// TestLateCopyIsNoPull: a copy that ends before its request for the manifest is not counted as a pull.
func TestLateCopyIsNoPull(t *testing.T) {
	p := newPair(t)
	p.byItself()
	digest, err := p.from.PushImage(repository, "1", registrytest.Image{})
	require.NoError(t, err)
	p.GuardEngine = func(ctx context.Context, _, _ reference.Repository, _ reference.Digest, _ int, run func(context.Context) error) error {
		return run(budget.WithDeadline(ctx, time.Now()))
	}
	copied, err := p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), registry.Descriptor{Digest: reference.MustDigest(digest), MediaType: string(types.OCIManifestSchema1)}, platform.Wanted{})
	require.ErrorIs(t, err, budget.ErrLate)
	require.Zero(t, copied.Pulls)
	require.Zero(t, p.from.Count(gets))
}

func TestWhatCannotBeCopied(t *testing.T) {
	deep := func(levels int) registrytest.Index {
		index := registrytest.Index{Images: []registrytest.Image{{}}}
		for range levels {
			index = registrytest.Index{Indexes: []registrytest.Index{index}}
		}
		return index
	}
	for name, test := range map[string]struct {
		push   func(t *testing.T, p *pair)
		class  outcome.Class
		is     error
		reason string
	}{
		"broken image": {class: outcome.Final, reason: "blob ",
			push: func(t *testing.T, p *pair) {
				_, err := p.from.PushImage(repository, "1", registrytest.Image{})
				require.NoError(t, err)
				_, _, err = p.from.BreakImage(repository, "1")
				require.NoError(t, err)
			}},
		"child that is missing at the source": {class: outcome.Gone, reason: "manifest unknown",
			push: func(t *testing.T, p *pair) {
				_, err := p.from.PushIndex(repository, "1", registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64"))
				require.NoError(t, err)
				children, err := p.from.Children(repository, "1")
				require.NoError(t, err)
				require.NoError(t, p.from.DeleteManifest(repository, children[1].Digest.String()))
			}},
		"broken attestation": {class: outcome.Final, is: registry.ErrNotFound, reason: "get blob 127.0.0.1:",
			push: func(t *testing.T, p *pair) {
				_, err := p.from.PushIndex(repository, "1", registrytest.MultiPlatform("1", "linux/amd64"))
				require.NoError(t, err)
				children, err := p.from.Children(repository, "1")
				require.NoError(t, err)
				_, _, err = p.from.BreakImage(repository, children[1].Digest.String())
				require.NoError(t, err)
			}},
		"nesting too deep": {class: outcome.Final, is: mirror.ErrTooDeep, reason: "nested too deeply",
			push: func(t *testing.T, p *pair) {
				_, err := p.from.PushIndex(repository, "1", deep(9))
				require.NoError(t, err)
			}},
		"child without a digest": {class: outcome.Final, is: registry.ErrBadManifest, reason: "child 1",
			push: func(t *testing.T, p *pair) {
				p.from.Inject(registrytest.Fault{Match: registrytest.Any, Status: 200,
					Header: map[string][]string{"Content-Type": {string(types.OCIImageIndex)}},
					Body:   `{"manifests":[{"digest":"x"}]}`})
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, registrytest.WithPartialIndexes())
			test.push(t, p)
			d, err := p.Registry.Head(t.Context(), reference.MustRepository(p.source()), reference.MustTag("1"))
			require.NoError(t, err)
			_, err = p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), d, platform.Wanted{})
			require.Error(t, err)
			if test.is != nil {
				require.ErrorIs(t, err, test.is)
			}
			require.Equal(t, test.class.String(), outcome.Classify(err).String(), "%v", err)
			require.Contains(t, outcome.Reason(err), test.reason)
			require.NotContains(t, outcome.Reason(err), "\n")
			_, err = p.to.Digest(destination, d.Digest.String())
			require.ErrorIs(t, err, registrytest.ErrNotFound, "what is not whole must not seem to be there")
		})
	}
}

// TestDestinationThatForgets: if the destination lacks what was just put, the failure is transient and
// names the destination.
func TestDestinationThatForgets(t *testing.T) {
	for itself, lost := range map[bool]registrytest.Fault{
		false: {Match: puts, Status: 400, Body: `{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}`},
		true:  {Match: gets, Status: 404}, // the manifest that skopeo has put is read back
	} {
		p := newPair(t)
		if itself {
			p.byItself()
		}
		_, err := p.from.PushImage(repository, "1", registrytest.Image{})
		require.NoError(t, err)
		defer p.to.Inject(lost)()
		_, err = p.mirror(t, "1")
		require.ErrorIs(t, err, mirror.ErrVanished)
		require.Equal(t, outcome.Transient.String(), outcome.Classify(err).String())
		require.Contains(t, outcome.Reason(err), p.to.Host())
	}
}
