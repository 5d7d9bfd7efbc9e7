package mirror

import (
	"context"
	"errors"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
)

// whole copies what an index that was read lists, and puts what is to be put in its
// place. Where not all could be copied, the index is kept.
func (c *copying) whole(ctx context.Context, read, put registry.Manifest, entries []registry.Entry, w wanting) error {
	err := c.index(ctx, put, entries, w)
	if err != nil && c.Indexes != nil {
		c.Indexes.KeepIndex(ctx, read)
	}
	return err
}

// imagesAtOnce is how many images of one index this process copies at once.
const imagesAtOnce = 4

// index copies what the index lists and then puts it, byte by byte. What is about its
// images, and its blobs, are copied beside them, but after them where the signature policy
// may reject these. An error of the ones does not end the others: what is under way has
// taken its pull.
func (c *copying) index(ctx context.Context, index registry.Manifest, entries []registry.Entry, w wanting) error {
	sorts := bySort(entries)
	strict, err := c.asks(ctx)
	if err == nil && strict && len(sorts[0]) == 0 {
		err = c.verify(ctx, index)
	}
	if err == nil && strict {
		err = c.entries(ctx, sorts[0], w.depth)
		sorts[0] = nil
	}
	if err != nil {
		return err
	}
	var group errgroup.Group
	for _, sort := range sorts {
		group.Go(func() error { return c.entries(ctx, sort, w.depth) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return c.put(ctx, index, w.isRoot())
}

// entries copies some of what an index lists. Engines copy one after the other, because
// those of one index may share layers.
func (c *copying) entries(ctx context.Context, entries []registry.Entry, depth int) error {
	var group errgroup.Group
	group.SetLimit(1)
	if c.Engine == nil {
		group.SetLimit(imagesAtOnce)
	}
	var failed atomic.Bool
	for _, entry := range entries {
		group.Go(func() error {
			if failed.Load() {
				return nil
			}
			err := c.entry(ctx, wanting{Descriptor: entry.Descriptor, about: isAbout(entry), depth: depth + 1})
			failed.CompareAndSwap(false, err != nil)
			return err
		})
	}
	return group.Wait()
}

// bySort tells images, what is about them, and blobs apart.
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

// isAbout reports whether an index lists the manifest as one about another. One that could
// be run is an image, whatever else is said of it: a signature policy holds for it.
func isAbout(entry registry.Entry) bool {
	return platform.Attestation(entry) && (entry.Platform == "" || entry.Platform == "unknown/unknown")
}

// entry makes sure that the destination has what an index lists. Of a media type that
// nobody knows, the source is asked: for a manifest first, then for a blob.
func (c *copying) entry(ctx context.Context, w wanting) error {
	switch w.Kind() {
	case registry.IsManifest:
		return c.manifest(ctx, w)
	case registry.IsBlob:
		return c.blob(ctx, w.Descriptor)
	}
	head, err := c.Registry.Head(ctx, c.source, w.Digest)
	if head.Pulled {
		c.pulls.Add(1)
	}
	if errors.Is(err, registry.ErrNotFound) {
		if err = c.blob(ctx, w.Descriptor); !errors.Is(err, registry.ErrNotFound) {
			return err
		}
	}
	w.MediaType = "" // it says nothing of how to copy a manifest
	return c.manifest(ctx, w)
}

// blob copies a blob that an index lists: of BuildKit's cache, the layers and their
// description. What only its publisher may distribute stays there.
func (c *copying) blob(ctx context.Context, d registry.Descriptor) error {
	if !d.Distributable() {
		return nil
	}
	err := c.moving().Copy(ctx, c.source, c.destination, d)
	if err == nil {
		c.bytes.Add(d.Size)
	}
	return err
}
