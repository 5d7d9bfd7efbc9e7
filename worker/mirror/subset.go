package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
)

// subset copies what is wanted of the manifest and returns the digest that it has at
// the destination.
func (c *copying) subset(ctx context.Context, d registry.Descriptor, wanted platform.Wanted) (reference.Digest, error) {
	w := wanting{Descriptor: d}
	index, kept := c.kept(ctx, d.Digest)
	if !kept {
		image, err := c.isImage(ctx, &w.Descriptor)
		if err == nil && !image {
			w.read, err = c.pull(ctx, d.Digest)
			index = w.read
		}
		if err != nil {
			return reference.Digest{}, err
		}
	}
	if !index.IsIndex() {
		return d.Digest, c.wantedImage(ctx, w, wanted)
	}
	subset, entries, err := wanted.Subset(index)
	if errors.Is(err, platform.ErrNoPlatform) {
		return reference.Digest{}, fmt.Errorf("%s@%s: %w", c.source, d.Digest, err)
	}
	if err != nil {
		return reference.Digest{}, c.bad(d.Digest, err)
	}
	c.isNew.Store(true)
	return subset.Digest, c.whole(ctx, index, subset, entries, w)
}

// wantedImage copies an image that is in no index. Its platform is in its
// configuration, which is read where it costs no pull: at the destination, after
// the copy. Without a tag, what was copied in vain is collected there.
func (c *copying) wantedImage(ctx context.Context, w wanting, wanted platform.Wanted) error {
	if err := c.manifest(ctx, w); err != nil {
		return err
	}
	matches, err := c.Wants(ctx, c.destination, w.Digest, wanted)
	if err != nil || matches {
		return err
	}
	return fmt.Errorf("%s@%s: %w", c.source, w.Digest, platform.ErrNoPlatform)
}

// Wants tells whether an image at the destination, which is in no index, is for a
// wanted platform. It asks for the image's configuration there.
func (m *Mirror) Wants(ctx context.Context, destination reference.Repository, digest reference.Digest, wanted platform.Wanted) (bool, error) {
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
	config, err := m.to().Config(ctx, destination, image.Config.Digest)
	if err != nil {
		return false, fmt.Errorf("reading the configuration of what was copied: %w", err)
	}
	return wanted.Image(config)
}
