package registry

import (
	"context"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
)

// maxConfigSize bounds a configuration: it has a line for each layer and command.
const maxConfigSize = 4 << 20

// Config returns a small blob, at most 4 MiB of it, such as the configuration of an
// image, after its content has been checked against the digest.
func (c *Client) Config(ctx context.Context, repository, reference string) ([]byte, error) {
	got, err := c.send(ctx, call{
		op: OpGet, repository: repository, reference: reference, method: http.MethodGet,
		scope: transport.PullScope, path: "blobs/" + reference, limit: maxConfigSize, instead: aBlob,
	})
	if err != nil {
		return nil, err
	}
	wanted, err := digest.Parse(reference)
	if err != nil {
		return nil, &Error{Op: OpGet, Repository: repository, Reference: reference, Err: fmt.Errorf("%w: %w", ErrDigestMismatch, err)}
	}
	if wanted.Algorithm().FromBytes(got.body) != wanted {
		return nil, &Error{Op: OpGet, Repository: repository, Reference: reference, Err: otherBlob(got.status, got.body, wanted)}
	}
	return got.body, nil
}
