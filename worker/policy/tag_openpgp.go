//go:build containers_image_openpgp

package policy

import (
	"errors"

	"go.podman.io/image/v5/signature"

	"github.com/osism/skopeo-worker/shared/redact"
)

// CanVerify reports whether this program can verify signatures.
const CanVerify = true

// valid returns an error for a text that is not a policy.
func valid(text []byte) error {
	if _, err := signature.NewPolicyFromBytes(text); err != nil {
		return errors.New(redact.Foreign(err.Error()))
	}
	return nil
}
