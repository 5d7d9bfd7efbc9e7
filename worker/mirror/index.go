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

// index copies the entries of an index that was pulled, and then puts the index, or a subset of it,
// byte for byte. If an entry could not be copied, index keeps the pulled index.
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

// keptIndex returns an index of the source that an earlier copy has kept. If the source does not limit
// pulls, keptIndex returns none, because a pull is as cheap as a request to the broker.
func (m *Mirror) keptIndex(ctx context.Context, source reference.Repository, digest reference.Digest) (registry.Manifest, bool) {
	if m.Free(source) {
		return registry.Manifest{}, false
	}
	return m.Indexes.Index(ctx, digest)
}

// sorted copies the entries of an index: images, attestations and blobs at the same time. If the
// signature policy may reject the images, it copies the rest after them. An error in one sort does
// not end the others, because their pulls are spent.
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

// entries copies some entries of an index. An engine copies them one by one, unless they share the
// copies of blobs.
func (c *copying) entries(ctx context.Context, entries []registry.Entry, depth int) error {
	var group errgroup.Group
	group.SetLimit(1)
	if c.mirror.SharesBlobs(ctx, c.source) {
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

// bySort separates images, attestations and blobs, in this order.
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

// isAbout reports whether an entry of an index is an attestation. A manifest with a platform is an
// image whatever its annotations are: the signature policy holds for it.
func isAbout(entry registry.Entry) bool {
	return platform.Attestation(entry) && (entry.Platform == "" || entry.Platform == "unknown/unknown")
}

// entry copies an entry of an index, unless the destination has it. If its media type is unknown,
// entry looks for a manifest at the source, and then for a blob.
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
	i.MediaType = "" // unknown: the source's answer decides
	return c.manifest(ctx, i)
}

// blob copies a blob that an index lists, such as a layer or the configuration of a BuildKit cache. It
// does not copy foreign layers, which only their publisher may distribute.
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

// subset copies the wanted platforms of a manifest, and returns the digest of the result at the
// destination.
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

// wantedImage copies an image that is in no index. Its platform is in its configuration, which
// wantedImage reads at the destination, after the copy, because that is not a pull. If the platform
// is not wanted, it returns an error: the image gets no tag, and the destination's garbage collector
// deletes it.
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

// HasPlatform reports whether an image at the destination that is in no index is for a wanted
// platform. It reads the image's configuration there.
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
		return false, fmt.Errorf("reading the configuration of the copied image: %w", err)
	}
	return wanted.Image(config)
}
