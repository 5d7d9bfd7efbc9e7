//go:build containers_image_openpgp

package verify

import (
	"context"
	"errors"
	"fmt"
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

// timeout limits the verification of one image, which reads a few small signatures.
const timeout = 2 * time.Minute

// errNeeded is returned by nameOnly.
var errNeeded = errors.New("signatures are needed")

// nameOnly is an image that is known only by its name.
type nameOnly struct{ types.ImageReference }

func (n nameOnly) Reference() types.ImageReference                { return n.ImageReference }
func (nameOnly) Manifest(context.Context) ([]byte, string, error) { return nil, "", errNeeded }
func (nameOnly) Signatures(context.Context) ([][]byte, error)     { return nil, errNeeded }

// name is the name of an image for the policy: a repository with a tag, or with a digest if the tag
// is zero.
type name struct {
	repository reference.Repository
	tag        reference.Tag
	digest     reference.Digest
}

func (n name) parse() (types.ImageReference, error) {
	text := "//" + n.repository.String() + "@" + n.digest.String()
	if !n.tag.IsZero() {
		text = "//" + n.repository.String() + ":" + n.tag.String()
	}
	ref, err := docker.ParseReference(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", registry.ErrName, err)
	}
	return ref, nil
}

// asks reports whether the policy needs more than the name of an image. If the name is enough to
// reject the image, it returns an error.
func asks(ctx context.Context, p policy.Policy, source reference.Repository, tag reference.Tag) (bool, error) {
	ref, err := name{source, tag, reference.DigestOf(nil)}.parse()
	if err != nil {
		return false, err
	}
	err = judge(ctx, p, nameOnly{ref})
	if errors.Is(err, errNeeded) {
		return true, nil
	}
	return false, err
}

// judge returns an error if the policy rejects an image.
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

// check returns an error if the policy rejects an image by its digest.
func (v *Verifier) check(ctx context.Context, p policy.Policy, source reference.Repository, manifest registry.Manifest) error {
	if more, err := asks(ctx, p, source, reference.Tag{}); err != nil || !more {
		return err
	}
	_, errs := v.gate.judge(ctx, p, source, manifest, make([]reference.Tag, 1), nil)
	return errs[0]
}

// judge returns an error, or nil, for each tag of an image; a zero tag stands for the digest. pulls
// is how many manifests were pulled for signatures.
func (g *gate) judge(ctx context.Context, p policy.Policy, source reference.Repository, manifest registry.Manifest, tags []reference.Tag, conf *conf) (pulls int, errs []error) {
	errs = make([]error, len(tags))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	way, err := g.open(ctx, source, manifest, tags)
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
		return 0, errs
	}
	defer way.close()
	for i, tag := range tags {
		errs[i] = way.judge(ctx, p, tag, conf)
	}
	return way.pulled(), errs
}

// judge returns an error if the policy rejects the image by a tag; a zero tag stands for the
// digest.
func (w *way) judge(ctx context.Context, p policy.Policy, tag reference.Tag, conf *conf) error {
	ref, err := name{w.source, tag, w.manifest.Digest}.parse()
	if err != nil {
		return err
	}
	system := &types.SystemContext{
		DockerAuthConfig: &types.DockerAuthConfig{}, // the gate's client has the credentials
		DockerProxyURL:   w.url,
		// The gate's own certificate is self-signed. The gate verifies those of registries.
		DockerInsecureSkipTLSVerify: types.OptionalBoolTrue,
	}
	remove, err := conf.addTo(system, p, ref)
	if err != nil {
		return err
	}
	defer remove()
	from, err := ref.NewImageSource(ctx, system)
	if err == nil {
		err = judge(ctx, p, image.UnparsedInstance(from, nil))
		_ = from.Close()
	}
	// If a request has failed, the result of the policy does not count.
	failed := w.failure()
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
	if hint := w.hint(err); hint != "" {
		err = fmt.Errorf("%w%s", err, hint)
	}
	return err
}
