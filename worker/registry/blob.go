package registry

import (
	"context"
	"net/http"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/osism/skopeo-worker/shared/reference"
)

// maxConfigSize bounds a configuration: it has a line for each layer and command.
const maxConfigSize = 4 << 20

// Config returns a small blob, at most 4 MiB of it, such as the configuration of an
// image, after its content has been checked against the digest.
func (c *Client) Config(ctx context.Context, repository reference.Repository, blob reference.Digest) ([]byte, error) {
	got, err := c.send(ctx, call{
		op: OpGetBlob, repository: repository, reference: blob, method: http.MethodGet,
		scope: transport.PullScope, path: blobs, limit: maxConfigSize, instead: aBlob,
	})
	if err != nil {
		return nil, err
	}
	if blob.Of(got.body) != blob {
		return nil, &Error{Op: OpGetBlob, Repository: repository, Reference: blob, Err: otherBlob(got.status, got.body, blob)}
	}
	return got.body, nil
}
