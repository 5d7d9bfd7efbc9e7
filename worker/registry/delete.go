package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/osism/skopeo-worker/shared/reference"
)

// OpDelete is the Op of Delete.
const OpDelete = "delete"

// ErrUndeletable is returned if a registry does not delete manifests at all: deletion is
// disabled, or takes an API of its own.
var ErrUndeletable = errors.New("this registry does not delete manifests")

// errUnsupported is the refusal of an operation that a registry does not have.
var errUnsupported = fmt.Errorf("%w", ErrRejected)

// deleteScope includes the scope to push, because some registries, such as Quay, know no
// scope to delete, and permit it to those who may push.
const deleteScope = "pull,push,delete"

// Delete deletes a manifest with all of its tags. The blobs and the manifests that it refers to
// stay. The error is ErrNotFound if the repository does not have it, and ErrUndeletable if the
// registry deletes none.
func (c *Client) Delete(ctx context.Context, repository reference.Repository, digest reference.Digest) error {
	remove := call{
		op: OpDelete, repository: repository, reference: digest, method: http.MethodDelete,
		scope: deleteScope, path: manifests, limit: maxErrorSize, instead: aReceipt,
	}
	_, err := c.send(ctx, remove)
	if refused, ok := errors.AsType[*Error](err); ok && doesNotDelete(refused) {
		refused.Err = fmt.Errorf("%w: %w", ErrUndeletable, refused.Err)
	}
	return err
}

func doesNotDelete(refused *Error) bool {
	switch refused.Status {
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	}
	return errors.Is(refused, errUnsupported)
}
