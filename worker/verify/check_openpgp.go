//go:build containers_image_openpgp

package verify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"

	"github.com/osism/skopeo-worker/shared/redact"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
)

// timeout bounds the verification of one image: some signatures of some kilobytes.
const timeout = 2 * time.Minute

// errNeeded is returned for an image of which only the name is known.
var errNeeded = errors.New("signatures are needed")

// nameOnly is an image of which no more than the name is known.
type nameOnly struct{ types.ImageReference }

func (n nameOnly) Reference() types.ImageReference                { return n.ImageReference }
func (nameOnly) Manifest(context.Context) ([]byte, string, error) { return nil, "", errNeeded }
func (nameOnly) Signatures(context.Context) ([][]byte, error)     { return nil, errNeeded }

// asks reports whether more than the name of an image is needed to decide about it. It
// returns an error if the name is enough to reject it.
func asks(ctx context.Context, p policy.Policy, source reference.Repository) (bool, error) {
	ref, err := docker.ParseReference("//" + source.String() + "@" + reference.DigestOf(nil).String())
	if err != nil {
		return false, fmt.Errorf("%w: %w", registry.ErrName, err)
	}
	err = judge(ctx, p, nameOnly{ref})
	if errors.Is(err, errNeeded) {
		return true, nil
	}
	return false, err
}

// judge asks the policy.
func judge(ctx context.Context, p policy.Policy, image types.UnparsedImage) error {
	parsed, err := signature.NewPolicyFromBytes(p.Text)
	if err != nil {
		return fmt.Errorf("%w: %s: %s", policy.ErrUnreadable, p.Path, redact.Foreign(err.Error()))
	}
	asked, err := signature.NewPolicyContext(parsed)
	if err != nil {
		return fmt.Errorf("%w: %w", policy.ErrUnreadable, err)
	}
	defer func() { _ = asked.Destroy() }()
	allowed, err := asked.IsRunningImageAllowed(ctx, image)
	switch {
	case errors.Is(err, errNeeded):
		return err
	case err != nil:
		return fmt.Errorf("%w %s: %s", policy.ErrRejected, p.Path, redact.Foreign(err.Error()))
	case !allowed:
		return fmt.Errorf("%w %s", policy.ErrRejected, p.Path)
	}
	return nil
}

// check asks the policy about an image.
func (v *Verifier) check(ctx context.Context, p policy.Policy, source reference.Repository, manifest registry.Manifest) error {
	if more, err := asks(ctx, p, source); err != nil || !more {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ref, err := docker.ParseReference("//" + source.String() + "@" + manifest.Digest.String())
	if err != nil {
		return fmt.Errorf("%w: %w", registry.ErrName, err)
	}
	way, err := v.gate.open(ctx, source, manifest)
	if err != nil {
		return err
	}
	defer way.close()
	from, err := ref.NewImageSource(ctx, &types.SystemContext{
		AuthFilePath:   os.Getenv("REGISTRY_AUTH_FILE"),
		DockerProxyURL: way.url,
		// The gate's own certificate is self-signed. The gate verifies those of registries.
		DockerInsecureSkipTLSVerify: types.OptionalBoolTrue,
	})
	if err == nil {
		err = judge(ctx, p, image.UnparsedInstance(from, nil))
		_ = from.Close()
	}
	// If an answer is missing, the result is no verdict.
	failed := way.failure()
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%w: no signatures within %s: %w", registry.ErrUnavailable, timeout, ctx.Err())
	case ctx.Err() != nil:
		return ctx.Err()
	case failed != nil:
		return failed
	}
	if !errors.Is(err, policy.ErrRejected) && !errors.Is(err, policy.ErrUnreadable) {
		err = fmt.Errorf("%w %s: %s", policy.ErrRejected, p.Path, redact.Foreign(err.Error()))
	}
	return err
}
