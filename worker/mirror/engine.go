package mirror

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// Engine copies images.
type Engine interface {
	// Copy brings the manifest with this digest, which is no index, with all that it refers
	// to, to the destination repository, under its digest and without a tag.
	Copy(ctx context.Context, source reference.Repository, digest reference.Digest, destination reference.Repository) error
}

// byEngine lets the engine copy a manifest with what it refers to.
func (c *copying) byEngine(ctx context.Context, d registry.Descriptor) error {
	err := c.guarded(ctx, d.Digest, func(ctx context.Context) error {
		err := c.Engine.Copy(ctx, c.source, d.Digest, c.destination)
		if !errors.Is(err, budget.ErrLate) && !errors.Is(err, skopeo.ErrNotInstalled) { // else it has asked for nothing
			c.pulls.Add(1)
		}
		return err
	})
	if err != nil {
		return c.explained(ctx, d, c.doubted(ctx, d, err))
	}
	copied, err := c.copied(ctx, c.destination, d.Digest)
	if err != nil {
		return fmt.Errorf("reading what was copied: %w", err)
	}
	c.bytes.Add(copied.ContentSize())
	return nil
}

// refusedManifest are skopeo's words where the destination does not want a manifest that
// it has been sent.
var refusedManifest = regexp.MustCompile(`(?i)^(?:writing|uploading) manifest\b.*(?:\b(?:manifest|size|tag) (?:invalid|unknown)|\bunsupported\b|: StatusCode: 4(?:0[04-6]|15|22)\b)`)

// explained adds to a failure of skopeo's the media types that the destination may not
// know: few say themselves. It takes a pull.
func (c *copying) explained(ctx context.Context, d registry.Descriptor, err error) error {
	failed := (*skopeo.Error)(nil)
	if !errors.As(err, &failed) || failed.Side != skopeo.Destination || !refusedManifest.MatchString(failed.Reason) {
		return err
	}
	manifest, getErr := c.Registry.Get(ctx, c.source, d.Digest)
	if getErr != nil {
		manifest = registry.Manifest{MediaType: d.MediaType}
	} else {
		c.pulls.Add(1)
	}
	return fmt.Errorf("%w; the manifest is %s", err, manifest.Types())
}

// guarded runs the copy of an image when the registries allow it.
func (c *copying) guarded(ctx context.Context, digest reference.Digest, run func(context.Context) error) error {
	if c.Guard == nil {
		return run(ctx)
	}
	return c.Guard(ctx, c.source, c.destination, digest, run)
}
