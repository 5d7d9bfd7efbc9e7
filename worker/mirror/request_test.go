package mirror_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

var (
	manifestHeads = registrytest.Kinds(registrytest.KindManifestHead)
	manifests     = registrytest.Kinds(registrytest.KindManifestHead, registrytest.KindManifestGet, registrytest.KindManifestPut)
)

// TestNothingIsAskedThatIsKnown: the first copy of an index of two images takes one look-up of the tag
// and three puts. A second tag takes one request.
func TestNothingIsAskedThatIsKnown(t *testing.T) {
	p := newPair(t)
	p.Engine = nil
	p.Free = func(reference.Repository) bool { return true }
	index := registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64")
	index.Attestations = false
	pushed, err := p.from.PushIndex(repository, "1", index)
	require.NoError(t, err)
	digest := reference.MustDigest(pushed)
	_, err = p.to.PushImage(destination, "known", registrytest.Image{})
	require.NoError(t, err)
	_, err = p.Tagged(t.Context(), reference.MustRepository(p.destination()), reference.MustTag("known"))
	require.NoError(t, err, "its HEAD can be believed")
	p.from.ResetRequests()
	p.to.ResetRequests()

	current, _, err := p.Current(t.Context(), p.target("1"), digest, platform.Wanted{})
	require.NoError(t, err)
	require.False(t, current)
	copied, err := p.copyAndTag(t, digest, "1")
	require.NoError(t, err)
	p.same(t, "1")
	require.Equal(t, 3, copied.Pulls)
	require.Equal(t, 3, p.from.Count(gets))
	require.Equal(t, 1, p.to.Count(manifestHeads))
	require.Zero(t, p.to.Count(gets))
	require.Equal(t, 3, p.to.Count(puts))

	p.to.ResetRequests()
	require.NoError(t, p.Tag(t.Context(), p.target("2"), digest))
	require.Equal(t, 1, p.to.Count(manifests))

	// If the tag was not looked up, the destination may have parts of the index.
	index.Images = append(index.Images, registrytest.Image{Platform: "linux/s390x"})
	more, err := p.from.PushIndex(repository, "3", index)
	require.NoError(t, err)
	p.to.ResetRequests()
	p.from.ResetRequests()
	_, err = p.copyAndTag(t, reference.MustDigest(more), "3")
	require.NoError(t, err)
	require.Equal(t, 2, p.from.Count(gets))
	require.Equal(t, 4, p.to.Count(manifestHeads))
	require.Equal(t, 2, p.to.Count(puts))
}

// TestOthersDelete: an image that was just put and has been deleted is put again, although the
// destination would accept an index without it.
func TestOthersDelete(t *testing.T) {
	p := newPairBetween(t, registrytest.New(t), registrytest.New(t, registrytest.WithPartialIndexes()))
	p.Engine = nil
	p.Free = func(reference.Repository) bool { return true }
	index := registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64")
	for _, tag := range []string{"1", "2", "3"} {
		pushed, err := p.from.PushIndex(repository, tag, index)
		require.NoError(t, err)
		digest := reference.MustDigest(pushed)
		_, _, err = p.Current(t.Context(), p.target(tag), digest, platform.Wanted{})
		require.NoError(t, err)
		_, err = p.copyAndTag(t, digest, tag)
		require.NoError(t, err)
		p.same(t, tag)
		children, err := p.to.Children(destination, tag)
		require.NoError(t, err)
		require.NoError(t, p.to.DeleteManifest(destination, children[0].Digest.String()))
		index.Images = append(index.Images, registrytest.Image{Version: tag, Platform: "linux/s390x"})
	}
}

// TestOthersDeleteBeforeTheTag: a manifest that was left for Tag is neither put minutes later nor
// counted as present: the next copy brings everything that is missing.
func TestOthersDeleteBeforeTheTag(t *testing.T) {
	p := newPairBetween(t, registrytest.New(t), registrytest.New(t, registrytest.WithPartialIndexes()))
	p.Engine = nil
	now := time.Now()
	p.SetClock(func() time.Time { return now })
	pushed, err := p.from.PushIndex(repository, "1", registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64"))
	require.NoError(t, err)
	digest := reference.MustDigest(pushed)
	children, err := p.from.Children(repository, pushed)
	require.NoError(t, err)
	bring := func() {
		_, err := p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), registry.Descriptor{Digest: digest}, platform.Wanted{})
		require.NoError(t, err)
	}
	bring()
	require.NoError(t, p.to.DeleteManifest(destination, children[0].Digest.String()))
	now = now.Add(5 * time.Minute)
	require.ErrorIs(t, p.Tag(t.Context(), p.target("1"), digest), mirror.ErrVanished)
	bring()
	require.NoError(t, p.Tag(t.Context(), p.target("1"), digest))
	p.same(t, "1")

	// A manifest that was not tagged yet does not count as present, either.
	pushed, err = p.from.PushIndex(repository, "2", registrytest.MultiPlatform("2", "linux/amd64", "linux/arm64"))
	require.NoError(t, err)
	digest = reference.MustDigest(pushed)
	children, err = p.from.Children(repository, pushed)
	require.NoError(t, err)
	bring()
	require.NoError(t, p.to.DeleteManifest(destination, children[0].Digest.String()))
	bring()
	require.NoError(t, p.Tag(t.Context(), p.target("2"), digest))
	p.same(t, "2")
}

// TestBlobsThatAreCollected: if the destination refuses a manifest because it has lost blobs, the next
// copy sends them.
func TestBlobsThatAreCollected(t *testing.T) {
	p := newPair(t)
	p.Engine = nil
	layer := registrytest.Layer{Seed: "shared", Size: 5000}
	for _, tag := range []string{"1", "2"} {
		_, err := p.from.PushImage(repository, tag, registrytest.Image{Version: tag, Layers: []registrytest.Layer{layer}})
		require.NoError(t, err)
	}
	_, err := p.mirror(t, "1")
	require.NoError(t, err)
	_, _, err = p.to.BreakImage(destination, "1")
	require.NoError(t, err)
	_, err = p.mirror(t, "2")
	require.ErrorIs(t, err, mirror.ErrVanished)
	require.ErrorContains(t, err, "blob unknown")
	require.Equal(t, outcome.Transient.String(), outcome.Classify(err).String())
	_, err = p.mirror(t, "2")
	require.NoError(t, err)
	p.same(t, "2")
}

// TestWordsForLostContent: the error is ErrVanished with each of the answers of registries that have
// lost content.
func TestWordsForLostContent(t *testing.T) {
	p := newPair(t)
	p.Engine = nil
	for status, codes := range map[int][]string{
		http.StatusBadRequest: {"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"},
		http.StatusNotFound:   {"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"},
	} {
		for _, code := range codes {
			tag := fmt.Sprint(status, code)
			_, err := p.from.PushImage(repository, tag, registrytest.Image{Version: tag})
			require.NoError(t, err)
			mend := p.to.Inject(registrytest.Fault{Match: puts, Status: status, Body: fmt.Sprintf(`{"errors":[{"code":%q}]}`, code)})
			_, err = p.mirror(t, tag)
			require.ErrorIs(t, err, mirror.ErrVanished, tag)
			require.Equal(t, outcome.Transient.String(), outcome.Classify(err).String(), tag)
			mend()
			p.to.ResetRequests()
			_, err = p.mirror(t, tag)
			require.NoError(t, err)
			require.Positive(t, p.to.Count(registrytest.Kinds(registrytest.KindBlobHead)), "blobs are looked up again")
			p.same(t, tag)
		}
	}
}

// TestTagsThatTheDestinationChanges: a tag is not done if the destination has stored another digest.
func TestTagsThatTheDestinationChanges(t *testing.T) {
	p := newPair(t)
	p.Engine = nil
	_, err := p.from.PushImage(repository, "1", registrytest.Image{})
	require.NoError(t, err)
	other := reference.DigestOf([]byte("other"))
	mend := p.to.Inject(registrytest.Fault{Match: puts, Status: http.StatusCreated, Header: http.Header{"Docker-Content-Digest": {other.String()}}})
	_, err = p.mirror(t, "1")
	require.ErrorIs(t, err, registry.ErrDigestMismatch)
	mend()
	p.to.Inject(registrytest.Fault{Match: puts, Status: http.StatusCreated})
	_, err = p.mirror(t, "1")
	require.ErrorIs(t, err, registry.ErrPage, "without a digest in the answer, the tag is looked up, and is missing")
}

// TestPullsThatCount: if the source limits pulls, the destination is asked first.
func TestPullsThatCount(t *testing.T) {
	p := newPair(t)
	p.Engine = nil
	pushed, err := p.from.PushIndex(repository, "1", registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64"))
	require.NoError(t, err)
	digest := reference.MustDigest(pushed)
	children, err := p.from.Children(repository, pushed)
	require.NoError(t, err)
	_, err = p.copyAndTag(t, reference.MustDigest(children[0].Digest.String()), "child")
	require.NoError(t, err)
	other := newPairBetween(t, p.from, p.to) // another worker
	other.Engine = nil
	_, _, err = other.Current(t.Context(), other.target("1"), digest, platform.Wanted{})
	require.NoError(t, err)
	copied, err := other.copyAndTag(t, digest, "1")
	require.NoError(t, err)
	require.Equal(t, len(children), copied.Pulls, "the index, and all but one of its entries")
}

// idle is an engine that must not copy anything.
type idle struct{ t *testing.T }

func (idle) Pulls(context.Context, reference.Repository) int { return 0 }

func (i idle) Turn(context.Context, skopeo.Image) (skopeo.Turn, error) {
	i.t.Error("the destination has all images")
	return skopeo.Turn{}, nil
}

func (idle) Slot(context.Context) (free func(), err error) { return func() {}, nil }

func (i idle) CopyManifest(context.Context, reference.Repository, reference.Digest, reference.Repository) error {
	i.t.Error("the destination has all images")
	return nil
}

// TestEngineCopiesNothingInVain: each image is looked up at the destination before the engine copies
// it.
func TestEngineCopiesNothingInVain(t *testing.T) {
	p := newPair(t)
	index := registrytest.MultiPlatform("1", "linux/amd64", "linux/arm64")
	index.Attestations = false
	pushed, err := p.from.PushIndex(repository, "1", index)
	require.NoError(t, err)
	children, err := p.from.Children(repository, pushed)
	require.NoError(t, err)
	for _, child := range children {
		_, err := p.copyAndTag(t, reference.MustDigest(child.Digest.String()), child.Digest.Hex[:12])
		require.NoError(t, err)
	}
	other := newPairBetween(t, p.from, p.to) // another worker
	other.Engine, other.Free = idle{t}, func(reference.Repository) bool { return true }
	_, _, err = other.Current(t.Context(), p.target("1"), reference.MustDigest(pushed), platform.Wanted{})
	require.NoError(t, err)
	_, err = other.copyAndTag(t, reference.MustDigest(pushed), "1")
	require.NoError(t, err)
	p.same(t, "1")
}

// copyAndTag copies a digest and tags it.
func (p *pair) copyAndTag(t *testing.T, digest reference.Digest, tag string) (mirror.Copied, error) {
	t.Helper()
	copied, err := p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), registry.Descriptor{Digest: digest}, platform.Wanted{})
	if err != nil {
		return copied, err
	}
	return copied, p.Tag(t.Context(), p.target(tag), copied.Digest)
}

// TestReferrersFindTheirSubject: referrers are put after their subject.
func TestReferrersFindTheirSubject(t *testing.T) {
	p := newPair(t)
	pushed, err := p.from.PushIndex(repository, "1", registrytest.MultiPlatform("1", "linux/amd64"))
	require.NoError(t, err)
	referrer, err := p.from.PushReferrer(repository, pushed, "application/vnd.example.signature")
	require.NoError(t, err)
	source, to, digest := reference.MustRepository(p.source()), reference.MustRepository(p.destination()), reference.MustDigest(pushed)
	copied, err := p.CopyImage(t.Context(), source, to, registry.Descriptor{Digest: digest}, platform.Wanted{})
	require.NoError(t, err)
	_, err = p.CopyReferrers(t.Context(), source, to, digest, copied.Digest, nil)
	require.NoError(t, err)
	require.NoError(t, p.to.Check(destination, pushed))
	var order []string
	for _, r := range p.to.Requests() {
		if puts(r) && (r.Reference == pushed || r.Reference == referrer) {
			order = append(order, r.Reference)
		}
	}
	require.Equal(t, []string{pushed, referrer}, order)
}

// TestNestedRoots: an index that was left for Tag is put before another index that lists it.
func TestNestedRoots(t *testing.T) {
	p := newPair(t)
	inner := registrytest.Index{Images: []registrytest.Image{{Platform: "linux/amd64"}}}
	pushed, err := p.from.PushIndex(repository, "1", inner)
	require.NoError(t, err)
	_, err = p.from.PushIndex(repository, "2", registrytest.Index{Indexes: []registrytest.Index{inner}})
	require.NoError(t, err)
	_, err = p.CopyImage(t.Context(), reference.MustRepository(p.source()), reference.MustRepository(p.destination()), registry.Descriptor{Digest: reference.MustDigest(pushed)}, platform.Wanted{})
	require.NoError(t, err)
	_, err = p.mirror(t, "2")
	require.NoError(t, err)
	p.same(t, "2")
}
