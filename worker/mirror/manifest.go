package mirror

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// item is a manifest that the destination is to have.
type item struct {
	registry.Descriptor
	about   bool               // it is about another manifest
	depth   int                // of indexes around it
	content *registry.Manifest // nil: it was not pulled yet
}

// isRoot reports whether the manifest is the one that is to be tagged.
func (i item) isRoot() bool { return i.depth == 0 && !i.about }

// manifest makes sure that the destination has the manifest.
func (c *copying) manifest(ctx context.Context, i item) error {
	if i.depth > maxDepth {
		return c.bad(i.Digest, ErrTooDeep)
	}
	if c.manifests.Add(1) > maxManifests {
		return c.bad(i.Digest, fmt.Errorf("%w manifests: an image has no more than %d", registry.ErrTooMany, maxManifests))
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
		err = c.mirror.settle(ctx, c.at(i.Digest)) // another copy of it at the same time may have left it for Tag
	}
	return err
}

// isMissing reports whether the destination is not asked for a manifest before it is copied.
func (c *copying) isMissing(i item) bool {
	return c.unasked.Load() || i.isRoot() && c.mirror.seen.lacks(c.at(i.Digest))
}

// fetch copies a manifest that the destination does not have, with everything below it.
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

// pulledForEngine copies a manifest that was pulled and that is no index: images by the engine.
func (c *copying) pulledForEngine(ctx context.Context, i item, manifest registry.Manifest) error {
	kind, itself := types.MediaType(manifest.MediaType), c.engineReads(ctx)
	switch {
	case itself && kind.IsSchema1():
		return c.byEngine(ctx, i.Descriptor)
	case !itself && (kind.IsImage() || kind.IsSchema1()):
		return c.imageByEngine(ctx, i, manifest)
	}
	return c.image(ctx, i, manifest)
}

// isForEngine reports whether the engine is to copy the manifest, which it pulls itself. A
// manifest that was kept becomes the content.
func (c *copying) isForEngine(ctx context.Context, i *item) (bool, error) {
	if i.content == nil {
		i.content = c.kept(ctx, i.Descriptor)
	}
	if i.content != nil || i.about || !c.engineReads(ctx) {
		return false, nil
	}
	return c.isImage(ctx, &i.Descriptor)
}

// kept returns the manifest if it was just verified, or the index if an earlier copy has kept
// it, and otherwise nil. An engine may pull images itself.
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
	c.unasked.Store(false) // the destination has some of it
	return &index
}

func (c *copying) pull(ctx context.Context, digest reference.Digest) (registry.Manifest, error) {
	manifest, err := c.mirror.Registry.Get(ctx, c.source, digest)
	if asked := (*registry.Error)(nil); err == nil || errors.As(err, &asked) && asked.Status != 0 {
		c.pulls.Add(1)
	}
	return manifest, err
}

// isImage reports whether a manifest is an image, which is no index. If the media type is
// not known, the source is asked: a listing, or a digest in the list, comes without one.
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

// image copies a manifest that was pulled, with its blobs.
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

// put puts a manifest by its digest. If later, it leaves it for Tag.
func (c *copying) put(ctx context.Context, manifest registry.Manifest, later bool) error {
	// Under a tag, the registry chooses the algorithm of the digest.
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

// settle puts a manifest by its digest that was left for Tag.
func (m *Mirror) settle(ctx context.Context, at manifestAt) error {
	if known, _ := m.seen.get(at); known.pending {
		return m.put(ctx, at, at.digest, known.Manifest)
	}
	return nil
}

// lost returns the error of a put. It is ErrVanished if the destination does not have what
// the manifest refers to and it had: then that is looked for again by the next try.
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
			return err // the destination accepts only manifests there
		}
		m.seen.forget(manifestAt{at.repository, child.Digest})
	}
	m.blobs.Forget(at.repository, blobs...)
	return fmt.Errorf("%w: %v", ErrVanished, err)
}
