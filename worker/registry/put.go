package registry

import (
	"context"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
)

// Put stores a manifest, byte for byte, under a tag or its digest. What the
// manifest refers to must be there already. Nothing else is written: no
// fallback tags for referrers, for they are tags of the source and mirrored as
// such.
func (c *Client) Put(ctx context.Context, repository, reference string, m Manifest) error {
	got, err := c.send(ctx, call{
		op: OpPut, repository: repository, reference: reference, method: http.MethodPut,
		scope: transport.PushScope, path: "manifests/" + reference,
		contentType: m.MediaType, body: m.Raw, limit: maxErrorSize,
	})
	if err != nil {
		return err
	}
	stored, err := digest.Parse(got.header.Get(digestHeader))
	if err != nil {
		return nil // the header is optional
	}
	if ours := stored.Algorithm().FromBytes(m.Raw); ours != stored {
		return &Error{Op: OpPut, Repository: repository, Reference: reference,
			Err: fmt.Errorf("%w: the registry stored %s instead of %s", ErrDigestMismatch, stored, ours)}
	}
	return nil
}
