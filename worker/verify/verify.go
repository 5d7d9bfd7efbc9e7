// Package verify holds images to the signature policy, before their bytes move.
package verify

import (
	"context"
	"errors"
	"net/http"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Verifier asks the policy. Its zero value must not be used; see New.
type Verifier struct {
	root string // of the system's files, for tests
	gate *gate
}

// New returns a verifier that asks registries for signatures with the client, and other
// servers over the network.
func New(client *registry.Client, network http.RoundTripper) *Verifier {
	return &Verifier{gate: newGate(client, network)}
}

// Asks reports whether the policy asks something of images of the repository that may take
// more than a look at its name. The error is that of Verify, where that is known already.
func (v *Verifier) Asks(ctx context.Context, source reference.Repository) (bool, error) {
	p, err := policy.Load(v.root)
	if err != nil || !p.IsStrict() {
		return false, named(source, reference.Digest{}, err)
	}
	asks, err := asks(ctx, p, source)
	return asks, named(source, reference.Digest{}, err)
}

// Verify returns nil where the policy allows a manifest of the source to be copied. What
// it asks for signatures goes by the client, and so takes tokens of budgets. The error is
// that of a request, or wraps policy.ErrRejected, ErrUnreadable or ErrUnenforceable.
func (v *Verifier) Verify(ctx context.Context, source reference.Repository, manifest registry.Manifest) error {
	p, err := policy.Load(v.root)
	if err == nil && p.IsStrict() {
		err = v.check(ctx, p, source, manifest)
	}
	return named(source, manifest.Digest, err)
}

// named says of which image an error is.
func named(source reference.Repository, digest reference.Digest, err error) error {
	if known := (*registry.Error)(nil); err == nil || errors.As(err, &known) {
		return err
	}
	return &registry.Error{Op: registry.OpGet, Repository: source, Reference: digest, Err: err}
}
