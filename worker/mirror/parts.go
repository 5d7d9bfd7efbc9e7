package mirror

import (
	"context"
	"errors"
	"fmt"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/transfer"
)

// ErrIncomplete is returned by New if a part is missing.
var ErrIncomplete = errors.New("the mirror lacks a part")

// Parts are what a Mirror is made of.
type Parts struct {
	// Registry sends the requests to sources; its Writing client sends those to destinations.
	Registry *registry.Client
	// Listing lists the tags of destinations that have an API for that.
	Listing *listing.Listers
	// Engine copies images. It is nil if Builtin is set.
	Engine Engine
	// Builtin means that the mirror copies images itself.
	Builtin bool
	// Verifier checks images against the signature policy, if no engine copies them.
	Verifier Verifier
	// Trust decides which tags Verify accepts.
	Trust Trust
	// Guard runs a copy of one manifest when the registries' limits allow it.
	Guard func(ctx context.Context, source, destination reference.Repository, digest reference.Digest, run func(context.Context) error) error
	// GuardEngine is Guard for a copy by an Engine that reads the source itself, and pulls that many
	// manifests there.
	GuardEngine func(ctx context.Context, source, destination reference.Repository, digest reference.Digest, pulls int, run func(context.Context) error) error
	// Free reports whether a source does not limit pulls. If true, CopyImage pulls an image whose
	// tag was missing at the destination a moment ago, without first asking the destination for
	// parts of it; with an Engine, whose needless copies cost more, it does so only if the
	// repository had no tags. Kept indexes are not looked up.
	Free func(source reference.Repository) bool
	// Indexes keeps indexes that could not be copied whole.
	Indexes Indexes
}

// New returns a mirror made of the parts. If one is missing, the error is ErrIncomplete and names it:
// without a part, a mirror might exceed a limit, or mirror an image that the policy rejects.
func New(p Parts) (*Mirror, error) {
	for name, missing := range map[string]bool{
		"Registry": p.Registry == nil, "Listing": p.Listing == nil, "Engine or Builtin": p.Engine == nil != p.Builtin,
		"Verifier": p.Verifier == nil, "Trust": p.Trust == nil, "Guard": p.Guard == nil,
		"GuardEngine": p.GuardEngine == nil, "Free": p.Free == nil, "Indexes": p.Indexes == nil,
	} {
		if missing {
			return nil, fmt.Errorf("%w: %s", ErrIncomplete, name)
		}
	}
	return &Mirror{Parts: p, destination: p.Registry.Writing(), blobs: transfer.New(p.Registry), seen: newRecent(), verified: newRead()}, nil
}

// NewComparing returns a mirror that can compare, but not copy, tag or verify. source and destination
// send the requests to either side. free is Parts.Free.
func NewComparing(source, destination *registry.Client, listing *listing.Listers, free func(source reference.Repository) bool) *Mirror {
	return &Mirror{Parts: Parts{Registry: source, Listing: listing, Free: free}, destination: destination, seen: newRecent(), verified: newRead()}
}

// NewVerifying returns a mirror that can verify, but not compare, copy or tag.
func NewVerifying(source *registry.Client, trust Trust) *Mirror {
	return &Mirror{Parts: Parts{Registry: source, Trust: trust, Free: unlimited, Indexes: NoIndexes{}}, verified: newRead()}
}

// unlimited is a Parts.Free.
func unlimited(reference.Repository) bool { return true }

// Destination returns the client that sends the requests to destinations.
func (m *Mirror) Destination() *registry.Client { return m.destination }

// Verifier checks images against a signature policy.
type Verifier interface {
	// Asks reports whether the policy may reject images of the repository. It returns an error
	// if the policy rejects all of them.
	Asks(ctx context.Context, source reference.Repository) (bool, error)
	// Verify returns an error if the manifest must not be copied.
	Verify(ctx context.Context, source reference.Repository, manifest registry.Manifest) error
}

// AnyImage is a Verifier that accepts every image.
type AnyImage struct{}

// Asks implements Verifier.
func (AnyImage) Asks(context.Context, reference.Repository) (bool, error) { return false, nil }

// Verify implements Verifier.
func (AnyImage) Verify(context.Context, reference.Repository, registry.Manifest) error { return nil }

// Indexes keeps indexes until the rest of their manifests can be copied, so that they need not be
// pulled again. An index that is lost costs a pull.
type Indexes interface {
	Index(ctx context.Context, digest reference.Digest) (registry.Manifest, bool)
	KeepIndex(ctx context.Context, index registry.Manifest)
}

// NoIndexes is an Indexes that keeps nothing.
type NoIndexes struct{}

// Index implements Indexes.
func (NoIndexes) Index(context.Context, reference.Digest) (registry.Manifest, bool) {
	return registry.Manifest{}, false
}

// KeepIndex implements Indexes.
func (NoIndexes) KeepIndex(context.Context, registry.Manifest) {}
