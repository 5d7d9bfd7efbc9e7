package mirror

import (
	"context"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/referrers"
	"github.com/osism/skopeo-worker/worker/registry"
)

// referrers copies the referrers of an image. digest is that of the image at the source, and copied
// that at the destination, which differs if only some platforms are mirrored.
func (c *copying) referrers(ctx context.Context, digest, copied reference.Digest) error {
	subjects, err := c.mirror.Subjects(ctx, c.destination, digest, copied)
	if err != nil {
		return err
	}
	finder := referrers.Finder{Registry: c.mirror.Registry, Pulled: func(reference.Repository) { c.pulls.Add(1) }, Held: c.held}
	var failed referrers.Failures
	for _, subject := range subjects {
		err := finder.Walk(ctx, c.source, subject, func(found referrers.List) error {
			if err := c.mirror.settle(ctx, c.at(copied)); err != nil {
				return err
			}
			return c.announce(ctx, found, &failed)
		})
		if err != nil && !failed.Add(err) {
			return err
		}
	}
	return failed.Err()
}

// Subjects returns the manifests whose referrers are mirrored with an image: its own and, if it is an
// index, those below it at the destination. copied is the digest that the image has there. If it is
// that of an index with some of the source's platforms, the source's own index is not a subject.
func (m *Mirror) Subjects(ctx context.Context, destination reference.Repository, digest, copied reference.Digest) ([]reference.Digest, error) {
	var all []reference.Digest
	if copied == digest {
		all = append(all, digest)
	}
	seen := map[reference.Digest]bool{}
	for next := []reference.Digest{copied}; len(next) > 0; next = next[1:] {
		manifest, err := m.copied(ctx, destination, next[0])
		if err != nil {
			return nil, err
		}
		children, err := manifest.Entries()
		if err != nil {
			return nil, err
		}
		for _, child := range children {
			if platform.Attestation(child) || child.Kind() == registry.IsBlob || seen[child.Digest] {
				continue
			}
			seen[child.Digest] = true
			all = append(all, child.Digest)
			if types.MediaType(child.MediaType).IsIndex() {
				next = append(next, child.Digest)
			}
		}
	}
	return all, nil
}

// held reads a manifest at the destination, which is not a pull.
func (c *copying) held(ctx context.Context, digest reference.Digest) (registry.Manifest, bool) {
	m, err := c.mirror.destination.Get(ctx, c.destination, digest)
	return m, err == nil
}

// announce copies the referrers of one manifest, and lists them at the destination. If one cannot be
// copied, it copies the others.
func (c *copying) announce(ctx context.Context, found referrers.List, failed *referrers.Failures) error {
	copied := found
	copied.Referrers = nil
	for _, entry := range found.Referrers {
		err := c.manifest(ctx, item{Descriptor: registry.Descriptor{Digest: entry.Digest, MediaType: entry.MediaType}, about: true})
		switch {
		case err == nil:
			copied.Referrers = append(copied.Referrers, entry)
		case !failed.Add(err):
			return err
		}
	}
	lock := c.mirror.announcement(found.Subject)
	lock.Lock()
	defer lock.Unlock()
	return referrers.Announce(ctx, c.mirror.destination, c.destination, copied)
}
