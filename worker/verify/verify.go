// Package verify checks images against signature policies before they are copied.
package verify

import (
	"context"
	"errors"
	"net/http"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Verifier checks images against the system's signature policy. Use New to make one.
type Verifier struct {
	root string // the folder that has the system's files; "" is the root folder
	gate *gate
}

// New returns a verifier that gets signatures from registries with the client, and from other
// servers over the network.
func New(client *registry.Client, network http.RoundTripper) *Verifier {
	return &Verifier{gate: newGate(client, network)}
}

// Asks reports whether the policy needs more than the name of images of the repository. If their
// name is enough for Verify to return an error, Asks returns that.
func (v *Verifier) Asks(ctx context.Context, source reference.Repository) (bool, error) {
	return Asks(ctx, v.root, source)
}

// Asks is Verifier.Asks for the policy of the system whose files are below root; "" is /.
func Asks(ctx context.Context, root string, source reference.Repository) (bool, error) {
	p, err := policy.Load(root)
	if err != nil || !p.IsStrict() {
		return false, named(source, reference.Digest{}, err)
	}
	asks, err := asks(ctx, p, source, reference.Tag{})
	return asks, named(source, reference.Digest{}, err)
}

// Verify returns nil if the policy accepts a manifest of the source. Its requests for signatures
// take budget tokens. The error is that of a request, or wraps policy.ErrRejected, ErrUnreadable or
// ErrUnenforceable.
func (v *Verifier) Verify(ctx context.Context, source reference.Repository, manifest registry.Manifest) error {
	p, err := policy.Load(v.root)
	if err == nil && p.IsStrict() {
		err = v.check(ctx, p, source, manifest)
	}
	return named(source, manifest.Digest, err)
}

// named adds the image to an error.
func named(source reference.Repository, name reference.TagOrDigest, err error) error {
	if err == nil || errors.As(err, new(*registry.Error)) {
		return err
	}
	return &registry.Error{Op: registry.OpVerify, Repository: source, Reference: name, Err: err}
}
