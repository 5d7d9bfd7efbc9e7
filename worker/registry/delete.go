package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

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

// DeleteTag deletes a tag and leaves its manifest. The errors are those of Delete; registries
// that delete only by digest, such as distribution before version 3, return ErrUndeletable.
func (c *Client) DeleteTag(ctx context.Context, repository reference.Repository, tag reference.Tag) error {
	err := c.remove(ctx, repository, tag)
	if refused, ok := errors.AsType[*Error](err); ok && refused.Status == http.StatusBadRequest && !errors.Is(err, ErrUndeletable) {
		refused.Err = fmt.Errorf("%w: %w", ErrUndeletable, refused.Err)
	}
	return err
}

// Delete deletes a manifest with all of its tags. The blobs and the manifests that it refers to
// stay. The error is ErrNotFound if the repository does not have it, and ErrUndeletable if the
// registry deletes none.
func (c *Client) Delete(ctx context.Context, repository reference.Repository, digest reference.Digest) error {
	return c.remove(ctx, repository, digest)
}

func (c *Client) remove(ctx context.Context, repository reference.Repository, name reference.TagOrDigest) error {
	remove := &call{
		op: OpDelete, repository: repository, reference: name, method: http.MethodDelete,
		scope: deleteScope, path: manifests, limit: maxErrorSize, instead: aReceipt,
	}
	_, err := c.send(ctx, remove)
	return undeletable(err)
}

// DeleteAt sends a DELETE to an API of the registry's own host that takes the user and password
// of the registry, to delete a tag. The errors are those of Delete.
func (c *Client) DeleteAt(ctx context.Context, repository reference.Repository, tag reference.Tag, target url.URL) error {
	remove := &call{op: OpDelete, repository: repository, reference: tag, method: http.MethodDelete, url: &target, limit: maxErrorSize, instead: aReceipt}
	at, known, err := c.ownAPI(ctx, remove)
	if err == nil {
		_, err = c.sendOpenly(ctx, at, remove, known)
	}
	if err != nil {
		return undeletable(remove.fail(err))
	}
	return nil
}

// undeletable adds ErrUndeletable to the refusal of a registry that deletes none.
func undeletable(err error) error {
	if refused, ok := errors.AsType[*Error](err); ok && doesNotDelete(refused) {
		refused.Err = fmt.Errorf("%w: %w", ErrUndeletable, refused.Err)
	}
	return err
}

func doesNotDelete(refused *Error) bool {
	if errors.Is(refused, ErrReferenced) {
		return false
	}
	switch refused.Status {
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	}
	return errors.Is(refused, errUnsupported)
}
