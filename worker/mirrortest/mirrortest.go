// Package mirrortest makes mirrors for tests.
package mirrortest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Limited takes every source for one that limits pulls.
func Limited(reference.Repository) bool { return false }

// New returns a mirror that copies with the engine, or itself if that is nil. It accepts every
// image, waits for no registry, takes every source for one that limits pulls, and keeps no
// indexes.
func New(t *testing.T, client *registry.Client, engine mirror.Engine) *mirror.Mirror {
	t.Helper()
	m, err := mirror.New(mirror.Parts{
		Registry: client,
		Listing:  listing.New(listing.Options{Registry: client}),
		Engine:   engine,
		Builtin:  engine == nil,
		Verifier: mirror.AnyImage{},
		Trust:    mirror.AnyTag{},
		Guard: func(ctx context.Context, _, _ reference.Repository, _ reference.Digest, run func(context.Context) error) error {
			return run(ctx)
		},
		GuardEngine: func(ctx context.Context, _, _ reference.Repository, _ reference.Digest, _ int, run func(context.Context) error) error {
			return run(ctx)
		},
		Free:    Limited,
		Indexes: mirror.NoIndexes{},
	})
	require.NoError(t, err)
	return m
}
