package mirror

import (
	"context"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Verifier holds images to a signature policy.
type Verifier interface {
	// Asks reports whether images of the repository may be rejected. It returns an error
	// where all of them are.
	Asks(ctx context.Context, source reference.Repository) (bool, error)
	// Verify returns an error where the manifest must not be copied.
	Verify(ctx context.Context, source reference.Repository, manifest registry.Manifest) error
}

func (c *copying) asks(ctx context.Context) (bool, error) {
	if c.Verifier == nil {
		return false, nil
	}
	return c.Verifier.Asks(ctx, c.source)
}

func (c *copying) verify(ctx context.Context, manifest registry.Manifest) error {
	if c.Verifier == nil {
		return nil
	}
	return c.Verifier.Verify(ctx, c.source, manifest)
}
