package mirror

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// item is a manifest to copy.
type item struct {
	registry.Descriptor
	about   bool               // it is an attestation or a referrer
	depth   int                // number of indexes around it
	content *registry.Manifest // if nil, it was not pulled yet
}

// isRoot reports whether the manifest is the one to be tagged.
func (i item) isRoot() bool { return i.depth == 0 && !i.about }

// manifest copies the manifest, unless the destination has it.
func (c *copying) manifest(ctx context.Context, i item) error {
	if i.depth > maxDepth {
		return c.bad(i.Digest, ErrTooDeep)
	}
	if c.manifests.Add(1) > maxManifests {
		return c.bad(i.Digest, fmt.Errorf("%w manifests: an image may have at most %d", registry.ErrTooMany, maxManifests))
	}
	err := c.mirror.flights.Do(ctx, c.at(i.Digest), func() error {
		known, ok := c.mirror.seen.get(c.at(i.Digest))
		if ok && (i.about || known.IsIndex() || !c.engineReads(ctx)) { // otherwise the engine pulls it
			i.content = &known.Manifest
		}
		if !known.pending && (ok || !c.isMissing(i)) {
			if _, err := c.mirror.destination.Head(ctx, c.destination, i.Digest); !registry.Absent(err) {
				return err
			}
		}
		if i.isRoot() {
			c.isNew.Store(true)
		}
		return c.fetch(ctx, i)
	})
	if err == nil && !i.isRoot() {
		err = c.mirror.settle(ctx, c.at(i.Digest)) // a copy of it as a root may have left it for Tag
	}
	return err
}

// isMissing reports whether to copy a manifest without looking it up at the destination.
func (c *copying) isMissing(i item) bool {
	return c.unasked.Load() || i.isRoot() && c.mirror.seen.lacks(c.at(i.Digest))
}

// fetch copies a manifest that the destination lacks, with everything that it refers to.
func (c *copying) fetch(ctx context.Context, i item) error {
	if c.allow != nil {
		if err := c.allow(ctx); err != nil {
			return err
		}
	}
	engines, err := c.isForEngine(ctx, &i)
	switch {
	case err != nil:
		return err
	case engines:
		return c.byEngine(ctx, i.Descriptor)
	case i.content == nil:
		pulled, err := c.pull(ctx, i.Digest)
		if err != nil {
			return err
		}
		i.content = &pulled
	}
	manifest := *i.content
	switch {
	case manifest.IsIndex():
		entries, err := manifest.Entries()
		if err != nil {
			return c.bad(manifest.Digest, err)
		}
		return c.index(ctx, manifest, manifest, entries, i)
	case i.about:
		return c.image(ctx, i, manifest)
	case c.mirror.Engine != nil:
		return c.pulledForEngine(ctx, i, manifest)
	}
	if err := c.mirror.Verifier.Verify(ctx, c.source, manifest); err != nil {
		return err
	}
	return c.guarded(ctx, manifest.Digest, func(ctx context.Context) error { return c.image(ctx, i, manifest) })
}

// pulledForEngine copies a pulled manifest that is not an index. The engine copies it if it is an
// image.
func (c *copying) pulledForEngine(ctx context.Context, i item, manifest registry.Manifest) error {
	kind := types.MediaType(manifest.MediaType)
	switch isImage := kind.IsImage() || kind.IsSchema1(); {
	case isImage && c.engineReads(ctx): // its media type was stated wrongly; the engine asks the signature policy
		return c.byEngine(ctx, i.Descriptor)
	case isImage:
		return c.imageByEngine(ctx, i, manifest)
	}
	return c.image(ctx, i, manifest)
}

// isForEngine reports whether the engine has to pull and copy the manifest. If the manifest was kept,
// isForEngine sets i.content.
func (c *copying) isForEngine(ctx context.Context, i *item) (bool, error) {
	if i.content == nil {
		i.content = c.kept(ctx, i.Descriptor)
	}
	if i.content != nil || i.about || !c.engineReads(ctx) {
		return false, nil
	}
	return c.isImage(ctx, &i.Descriptor)
}

// kept returns a manifest that was pulled before: one that was just verified, or an index that an
// earlier copy has kept; nil if there is none. It does not return images that the engine pulls itself.
func (c *copying) kept(ctx context.Context, d registry.Descriptor) *registry.Manifest {
	if known, ok := c.mirror.verified.get(manifestAt{c.source, d.Digest}); ok && (known.IsIndex() || !c.engineReads(ctx)) {
		return &known
	}
	if kind := types.MediaType(d.MediaType); kind.IsImage() || kind.IsSchema1() {
		return nil
	}
	index, ok := c.mirror.keptIndex(ctx, c.source, d.Digest)
	if !ok {
		return nil
	}
	c.unasked.Store(false) // the destination has some of the index's manifests
	return &index
}

func (c *copying) pull(ctx context.Context, digest reference.Digest) (registry.Manifest, error) {
	manifest, err := c.mirror.Registry.Get(ctx, c.source, digest)
	if asked := (*registry.Error)(nil); err == nil || errors.As(err, &asked) && asked.Status != 0 {
		c.pulls.Add(1)
	}
	return manifest, err
}

// isImage reports whether a manifest is an image, and not an index or an artifact. If the media type
// is unknown, as for digests from the list or a tag listing, isImage asks the source.
func (c *copying) isImage(ctx context.Context, d *registry.Descriptor) (bool, error) {
	if known, ok := c.mirror.verified.get(manifestAt{c.source, d.Digest}); ok {
		d.MediaType = known.MediaType
	}
	if d.MediaType == "" {
		head, err := c.mirror.Registry.Find(ctx, c.source, d.Digest)
		if head.Pulled {
			c.pulls.Add(1)
		}
		if err != nil {
			return false, err
		}
		d.MediaType = head.MediaType
	}
	kind := types.MediaType(d.MediaType)
	return kind.IsImage() || kind.IsSchema1(), nil
}

// image copies a pulled manifest with its blobs.
func (c *copying) image(ctx context.Context, i item, manifest registry.Manifest) error {
	blobs, err := manifest.Blobs()
	if err != nil {
		return c.bad(manifest.Digest, err)
	}
	send := c.mirror.blobs.Send
	if c.mirror.seen.isBare(c.destination) {
		send = c.mirror.blobs.SendToEmpty
	}
	if err := send(ctx, c.source, c.destination, blobs...); err != nil {
		return err
	}
	c.bytes.Add(manifest.ContentSize())
	return c.put(ctx, manifest, i.isRoot())
}

// put puts a manifest under its digest. If later, it leaves the manifest for Tag to put, if possible.
func (c *copying) put(ctx context.Context, manifest registry.Manifest, later bool) error {
	// If a manifest is put under a tag, the registry chooses the digest algorithm.
	later = later && manifest.Digest.Algorithm() == reference.DigestOf(nil).Algorithm()
	if later && c.mirror.seen.keep(c.at(manifest.Digest), manifest, true) {
		return nil
	}
	return c.mirror.put(ctx, c.at(manifest.Digest), manifest.Digest, manifest)
}

// put puts a manifest under its digest or a tag.
func (m *Mirror) put(ctx context.Context, at manifestAt, name reference.TagOrDigest, manifest registry.Manifest) error {
	if err := m.destination.Put(ctx, at.repository, name, manifest); err != nil {
		return m.lost(at, manifest, err)
	}
	m.seen.keep(at, manifest, false)
	return nil
}

// settle puts a manifest that was left for Tag under its digest.
func (m *Mirror) settle(ctx context.Context, at manifestAt) error {
	if known, _ := m.seen.get(at); known.pending {
		return m.put(ctx, at, at.digest, known.Manifest)
	}
	return nil
}

// lost returns the error of a put. It is ErrVanished if the destination has lost manifests or blobs to
// which the manifest refers; lost then forgets them, so that a retry looks them up again.
func (m *Mirror) lost(at manifestAt, manifest registry.Manifest, err error) error {
	if !errors.Is(err, registry.ErrBlobUnknown) {
		return err
	}
	m.seen.forget(at)
	children, badIndex := manifest.Children()
	blobs, badImage := manifest.Blobs()
	if badIndex != nil || badImage != nil {
		return err
	}
	for _, child := range children {
		if child.Kind() != registry.IsManifest {
			return err // the destination accepts only manifests in an index
		}
		m.seen.forget(manifestAt{at.repository, child.Digest})
	}
	m.blobs.Forget(at.repository, blobs...)
	return fmt.Errorf("%w: %v", ErrVanished, err)
}
