//go:build !containers_image_openpgp

package verify

import (
	"context"
	"net/http"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
)

// gate is not used, because policy.Load returns no strict policy without the build tag.
type gate struct{}

func newGate(*registry.Client, http.RoundTripper) *gate { return nil }

// judge is not called.
func (*gate) judge(context.Context, policy.Policy, reference.Repository, registry.Manifest, []reference.Tag, *conf) (int, []error) {
	return 0, []error{policy.ErrUnenforceable}
}

type conf struct{}

func asks(context.Context, policy.Policy, reference.Repository, reference.Tag) (bool, error) {
	return false, policy.ErrUnenforceable
}

func (v *Verifier) check(context.Context, policy.Policy, reference.Repository, registry.Manifest) error {
	return policy.ErrUnenforceable
}
