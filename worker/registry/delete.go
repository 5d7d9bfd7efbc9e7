package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/osism/skopeo-worker/shared/reference"
)

// ErrUndeletable is returned if a registry does not delete manifests at all: deletion is disabled, or
// needs the registry's own API.
var ErrUndeletable = errors.New("this registry does not delete manifests")

// errUnsupported is returned if a registry does not have an operation.
var errUnsupported = fmt.Errorf("%w", ErrRejected)

// deleteScope includes the scope to push, because registries without a scope to delete, such as Quay,
// permit deletions to clients that may push.
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

// Delete deletes a manifest with all of its tags, but not the blobs and manifests that it refers to.
// The error is ErrNotFound if the repository does not have the manifest, and ErrUndeletable if the
// registry deletes no manifests.
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

// DeleteAt deletes a tag with an API of the registry's own host that takes the registry's user and
// password. The errors are those of Delete.
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

// undeletable adds ErrUndeletable to the refusal of a registry that deletes no manifests.
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
