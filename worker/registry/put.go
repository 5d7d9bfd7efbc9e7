package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/osism/skopeo-worker/shared/reference"
)

// Put stores a manifest, byte for byte, under a tag or its digest. What the
// manifest refers to must be there already. Nothing else is written: no
// fallback tags for referrers, for they are tags of the source and mirrored as
// such.
func (c *Client) Put(ctx context.Context, repository reference.Repository, name reference.TagOrDigest, m Manifest) error {
	got, err := c.send(ctx, call{
		op: OpPut, repository: repository, reference: name, method: http.MethodPut,
		scope: transport.PushScope, path: manifests,
		contentType: m.MediaType, body: m.Raw, limit: maxErrorSize, instead: aReceipt,
	})
	if refused := (*Error)(nil); errors.As(err, &refused) && (errors.Is(err, ErrRejected) || errors.Is(err, ErrNotFound)) {
		// "manifest invalid" is all that many say of a media type that they do not know.
		refused.Err = fmt.Errorf("%w; the manifest is %s", refused.Err, m.Types())
	}
	if err != nil {
		return err
	}
	stored, err := storedAs(got.header)
	if err != nil {
		return c.stored(ctx, repository, name, m, got)
	}
	if ours := digestAs(stored, m.Raw); ours != stored {
		return &Error{Op: OpPut, Repository: repository, Reference: name,
			Err: fmt.Errorf("%w: the registry stored %s instead of %s", ErrDigestMismatch, stored, ours)}
	}
	return nil
}

// stored makes sure that a success without a digest, which is optional, was one: the
// registry is asked. A page says success, too.
func (c *Client) stored(ctx context.Context, repository reference.Repository, name reference.TagOrDigest, m Manifest, got answer) error {
	held, err := c.Find(ctx, repository, name)
	if err == nil && digestAs(held.Digest, m.Raw) == held.Digest {
		return nil
	}
	if err == nil || errors.Is(err, ErrNotFound) {
		return &Error{Op: OpPut, Repository: repository, Reference: name, Err: noReceipt(got)}
	}
	return err
}
