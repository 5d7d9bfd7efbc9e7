package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
)

// imagesAtOnce is how many images of one index the mirror copies at once.
const imagesAtOnce = 4

// index copies the entries of an index that was pulled, and then puts the index, or a subset
// of it, byte for byte. If not everything could be copied, the index is kept.
func (c *copying) index(ctx context.Context, pulled, put registry.Manifest, entries []registry.Entry, i item) error {
	err := c.sorted(ctx, put, entries, i.depth)
	if err == nil {
		err = c.put(ctx, put, i.isRoot())
	}
	if err != nil {
		c.mirror.Indexes.KeepIndex(ctx, pulled)
	}
	return err
}

// keptIndex returns an index of the source that an earlier copy has kept, if its pulls are
// limited. Otherwise asking the source again is as cheap as asking for what was kept.
func (m *Mirror) keptIndex(ctx context.Context, source reference.Repository, digest reference.Digest) (registry.Manifest, bool) {
	if m.Free(source) {
		return registry.Manifest{}, false
	}
	return m.Indexes.Index(ctx, digest)
}

// sorted copies entries of an index. What is about its images, and its blobs, are copied
// beside the images, but after them if the signature policy may reject these. An error in
// one sort does not end the others: their pulls are spent.
func (c *copying) sorted(ctx context.Context, index registry.Manifest, entries []registry.Entry, depth int) error {
	sorts := bySort(entries)
	strict, err := c.mirror.Verifier.Asks(ctx, c.source)
	if err == nil && strict && len(sorts[0]) == 0 {
		err = c.mirror.Verifier.Verify(ctx, c.source, index)
	}
	if err == nil && strict {
		err = c.entries(ctx, sorts[0], depth)
		sorts[0] = nil
	}
	if err != nil {
		return err
	}
	var group errgroup.Group
	for _, sort := range sorts {
		group.Go(func() error { return c.entries(ctx, sort, depth) })
	}
	return group.Wait()
}

// entries copies some entries of an index. Engines copy one after the other, because the
// images of one index may share layers.
func (c *copying) entries(ctx context.Context, entries []registry.Entry, depth int) error {
	var group errgroup.Group
	group.SetLimit(1)
	if c.mirror.Engine == nil {
		group.SetLimit(imagesAtOnce)
	}
	var failed atomic.Bool
	for _, entry := range entries {
		group.Go(func() error {
			if failed.Load() {
				return nil
			}
			err := c.entry(ctx, item{Descriptor: entry.Descriptor, about: isAbout(entry), depth: depth + 1})
			failed.CompareAndSwap(false, err != nil)
			return err
		})
	}
	return group.Wait()
}

// bySort separates images, what is about images, and blobs.
func bySort(entries []registry.Entry) (sorts [3][]registry.Entry) {
	for _, entry := range entries {
		sort := 0
		switch {
		case isAbout(entry):
			sort = 1
		case entry.Kind() == registry.IsBlob:
			sort = 2
		}
		sorts[sort] = append(sorts[sort], entry)
	}
	return sorts
}

// isAbout reports whether an index lists the manifest as one about another. A manifest with
// a platform is an image, whatever its annotations say: the signature policy holds for it.
func isAbout(entry registry.Entry) bool {
	return platform.Attestation(entry) && (entry.Platform == "" || entry.Platform == "unknown/unknown")
}

// entry makes sure that the destination has an entry of an index. If its media type is not
// known, the source is asked for a manifest first, then for a blob.
func (c *copying) entry(ctx context.Context, i item) error {
	switch i.Kind() {
	case registry.IsManifest:
		return c.manifest(ctx, i)
	case registry.IsBlob:
		return c.blob(ctx, i.Descriptor)
	}
	head, err := c.mirror.Registry.Head(ctx, c.source, i.Digest)
	if head.Pulled {
		c.pulls.Add(1)
	}
	if errors.Is(err, registry.ErrNotFound) {
		if err = c.blob(ctx, i.Descriptor); !errors.Is(err, registry.ErrNotFound) {
			return err
		}
	}
	i.MediaType = "" // it does not say how to copy a manifest
	return c.manifest(ctx, i)
}

// blob copies a blob that an index lists, such as the layers and the configuration of
// BuildKit's cache. Layers that only their publisher may distribute are not copied.
func (c *copying) blob(ctx context.Context, d registry.Descriptor) error {
	if !d.Distributable() {
		return nil
	}
	err := c.mirror.blobs.Send(ctx, c.source, c.destination, d)
	if err == nil {
		c.bytes.Add(d.Size)
	}
	return err
}

// subset copies what is wanted of the manifest and returns the digest that it has at
// the destination.
func (c *copying) subset(ctx context.Context, d registry.Descriptor, wanted platform.Wanted) (reference.Digest, error) {
	i := item{Descriptor: d, content: c.kept(ctx, d)}
	if i.content == nil {
		image, err := c.isImage(ctx, &i.Descriptor)
		if err == nil && !image {
			var pulled registry.Manifest
			pulled, err = c.pull(ctx, d.Digest)
			i.content = &pulled
		}
		if err != nil {
			return reference.Digest{}, err
		}
	}
	if i.content == nil || !i.content.IsIndex() {
		return d.Digest, c.wantedImage(ctx, i, wanted)
	}
	subset, entries, err := wanted.Subset(*i.content)
	if errors.Is(err, platform.ErrNoPlatform) {
		return reference.Digest{}, fmt.Errorf("%s@%s: %w", c.source, d.Digest, err)
	}
	if err != nil {
		return reference.Digest{}, c.bad(d.Digest, err)
	}
	c.isNew.Store(true)
	return subset.Digest, c.index(ctx, *i.content, subset, entries, i)
}

// wantedImage copies an image that is in no index. Its configuration states its platform,
// and is read at the destination, after the copy, because that is no pull. If the image is
// not wanted, it gets no tag, and the destination collects it.
func (c *copying) wantedImage(ctx context.Context, i item, wanted platform.Wanted) error {
	if err := c.manifest(ctx, i); err != nil {
		return err
	}
	matches, err := c.mirror.HasPlatform(ctx, c.destination, i.Digest, wanted)
	if err != nil || matches {
		return err
	}
	return fmt.Errorf("%s@%s: %w", c.source, i.Digest, platform.ErrNoPlatform)
}

// HasPlatform reports whether an image at the destination, which is in no index, is for a
// wanted platform. It reads the image's configuration there.
func (m *Mirror) HasPlatform(ctx context.Context, destination reference.Repository, digest reference.Digest, wanted platform.Wanted) (bool, error) {
	manifest, err := m.copied(ctx, destination, digest)
	if err != nil {
		return false, err
	}
	var image struct {
		Config struct {
			MediaType string           `json:"mediaType"`
			Digest    reference.Digest `json:"digest"`
		} `json:"config"`
	}
	if err := json.Unmarshal(manifest.Raw, &image); err != nil {
		return false, &registry.Error{Op: registry.OpGet, Repository: destination, Reference: digest, Err: fmt.Errorf("%w: %w", registry.ErrBadManifest, err)}
	}
	if !types.MediaType(image.Config.MediaType).IsConfig() {
		return true, nil // an artifact is for every platform
	}
	config, err := m.destination.Config(ctx, destination, image.Config.Digest)
	if err != nil {
		return false, fmt.Errorf("reading the configuration of what was copied: %w", err)
	}
	return wanted.Image(config)
}
