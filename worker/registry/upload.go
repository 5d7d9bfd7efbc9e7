package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// blobTimeout bounds the transfer of a blob: a large SBOM on a slow line takes
// minutes, and a trickle must not hold a worker for ever.
const blobTimeout = 30 * time.Minute

// CopyBlob brings a blob from one repository to another, unless it is there. The
// destination checks its digest, as the OCI distribution specification demands.
func (c *Client) CopyBlob(ctx context.Context, source, destination string, blob Descriptor) error {
	_, err := c.send(ctx, call{
		op: OpHead, repository: destination, reference: blob.Digest, method: http.MethodHead,
		scope: transport.PullScope, path: "blobs/" + blob.Digest, limit: maxErrorSize,
	})
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	// What the destination says must not be taken for the source's word.
	var uploaded error
	_, err = c.send(ctx, call{
		op: OpGet, repository: source, reference: blob.Digest, method: http.MethodGet,
		scope: transport.PullScope, path: "blobs/" + blob.Digest, limit: maxErrorSize, within: blobTimeout,
		into: func(content io.Reader) error {
			uploaded = c.upload(ctx, destination, blob, content)
			return uploaded
		},
	})
	if uploaded != nil {
		return uploaded
	}
	return err
}

// upload puts a blob in one piece: a POST that opens the upload, a PUT that ends it.
func (c *Client) upload(ctx context.Context, repository string, blob Descriptor, content io.Reader) error {
	put := call{
		op: OpPut, repository: repository, reference: blob.Digest, method: http.MethodPost,
		scope: transport.PushScope, path: "blobs/uploads/", limit: maxErrorSize,
	}
	opened, err := c.send(ctx, put)
	if err != nil {
		return err
	}
	location, err := url.Parse(opened.header.Get("Location"))
	if err != nil || *location == (url.URL{}) {
		return &Error{Op: OpPut, Repository: repository, Reference: blob.Digest,
			Err: fmt.Errorf("%w: the registry does not say where to put the blob", ErrUnexpected)}
	}
	put.url = opened.url.ResolveReference(location)
	query := put.url.Query()
	query.Set("digest", blob.Digest)
	put.url.RawQuery = query.Encode()
	put.method, put.contentType, put.within = http.MethodPut, "application/octet-stream", blobTimeout
	// A reader of another type keeps net/http from closing the source's answer.
	put.stream, put.size = io.LimitReader(content, blob.Size), blob.Size
	_, err = c.send(ctx, put)
	return err
}
