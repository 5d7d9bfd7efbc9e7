package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/meter"
)

// CopyBlob brings a blob from one repository to another, unless it is there. Content
// that is not the blob's is never handed on.
func (c *Client) CopyBlob(ctx context.Context, source, destination reference.Repository, blob Descriptor) error {
	err := c.copyBlob(ctx, source, destination, blob)
	if errors.Is(err, errStale) {
		return c.copyBlob(ctx, source, destination, blob)
	}
	return err
}

func (c *Client) copyBlob(ctx context.Context, source, destination reference.Repository, blob Descriptor) error {
	to := c.Writing()
	there, err := to.hasBlob(ctx, destination, blob)
	if err != nil || there {
		return err
	}
	// What the destination says must not be taken for the source's word.
	var uploaded error
	_, err = c.send(ctx, call{
		op: OpGet, repository: source, reference: blob.Digest, method: http.MethodGet,
		scope: transport.PullScope, path: blobs, limit: maxErrorSize, instead: aBlob, large: true, within: c.copyTimeout,
		into: func(got answer, body io.Reader) error {
			content := &blobReader{body: body, blob: blob, status: got.status, verifier: blob.Digest.Verifier()}
			uploaded = to.upload(ctx, destination, blob, content)
			return content.failure()
		},
	})
	if err != nil {
		return err
	}
	return uploaded
}

// hasBlob looks a blob up. A success that says neither the digest nor the size is none
// of a registry, or of one that does not say enough: then it is to be uploaded.
func (c *Client) hasBlob(ctx context.Context, repository reference.Repository, blob Descriptor) (bool, error) {
	got, err := c.send(ctx, call{
		op: OpHead, repository: repository, reference: blob.Digest, method: http.MethodHead,
		scope: transport.PullScope, path: blobs, limit: maxErrorSize, instead: aBlob,
	})
	if Absent(err) || servesNoHead(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if said := got.header.Get(digestHeader); said != "" {
		return said == blob.Digest.String(), nil
	}
	return got.size == blob.Size && declaredType(got.header) != "text/html", nil
}

// PutBlob uploads a blob, whether it is there or not.
func (c *Client) PutBlob(ctx context.Context, repository reference.Repository, blob Descriptor, content io.Reader) error {
	return c.upload(ctx, repository, blob, content)
}

// upload puts a blob in one piece: a POST that opens the upload, a PUT that ends it.
func (c *Client) upload(ctx context.Context, repository reference.Repository, blob Descriptor, content io.Reader) error {
	put := call{
		op: OpPut, repository: repository, reference: blob.Digest, method: http.MethodPost,
		scope: transport.PushScope, path: uploads, limit: maxErrorSize, instead: aReceipt,
	}
	opened, err := c.send(ctx, put)
	if err != nil {
		return err
	}
	if put.url, err = opened.location(); err != nil {
		return about(err, OpPut, repository, blob.Digest)
	}
	query := put.url.Query()
	query.Set("digest", blob.Digest.String())
	put.url.RawQuery = query.Encode()
	put.method, put.contentType, put.within = http.MethodPut, "application/octet-stream", c.copyTimeout
	put.large, put.stream, put.size = true, meter.Reader(ctx, content), blob.Size
	got, err := c.send(ctx, put)
	if err != nil || got.status == http.StatusCreated || got.header.Get(digestHeader) == blob.Digest.String() {
		return err
	}
	// Some registries say another status; so does what is none.
	there, err := c.hasBlob(ctx, repository, blob)
	if err == nil && !there {
		err = &Error{Op: OpPut, Repository: repository, Reference: blob.Digest, Err: noReceipt(got)}
	}
	return err
}

// location is where an upload that was opened goes. It may be on another host, which
// gets no credentials of ours.
func (a answer) location() (*url.URL, error) {
	text := a.header.Get("Location")
	switch {
	case text == "" && a.status != http.StatusAccepted:
		return nil, noReceipt(a)
	case text == "":
		return nil, fmt.Errorf("%w: the registry does not say where to put the blob", ErrUnexpected)
	}
	location, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: the upload location is not a URL", ErrUnexpected)
	}
	bad := fmt.Errorf("%w: the registry wants the blob at %s", ErrUnexpected, reference.Quote(location.Path))
	if location.User != nil || location.Opaque != "" {
		return nil, bad
	}
	// A front may take dot segments away, and with them the repository.
	for segment := range strings.SplitSeq(location.Path, "/") {
		if segment == "." || segment == ".." {
			return nil, bad
		}
	}
	location = a.url.ResolveReference(location)
	location.Fragment, location.RawFragment = "", ""
	// Below /v2/ are the repositories, and this is to end up in its own. Some
	// registries take uploads elsewhere.
	own := strings.TrimSuffix(strings.TrimPrefix(a.url.Path, "/v2"), "uploads/")
	if strings.HasPrefix(location.Path, "/v2/") && !strings.Contains(location.Path, own) {
		return nil, bad
	}
	if location.Scheme != "https" && location.Scheme != "http" || location.Host == "" {
		return nil, bad
	}
	return location, nil
}

// blobReader is a blob on its way. Its last byte is handed on only if all of them
// have the digest.
type blobReader struct {
	body     io.Reader
	blob     Descriptor
	status   int
	verifier digest.Verifier
	begin    []byte // of what came
	read     int64

	mu     sync.Mutex // a request that has ended may still be reading
	failed error      // why it is not the blob, or could not be read
}

// beginning is how much of a page is looked at.
const beginning = 1 << 10

func (b *blobReader) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

func (b *blobReader) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = err
}

func (b *blobReader) Read(p []byte) (int, error) {
	if err := b.failure(); err != nil {
		return 0, err
	}
	n, err := b.body.Read(p)
	b.read += int64(n)
	b.begin = append(b.begin, p[:min(n, beginning-len(b.begin))]...)
	_, _ = b.verifier.Write(p[:n]) // a hash takes everything
	switch {
	case err != nil && err != io.EOF:
		b.fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
	case b.read > b.blob.Size, b.read == b.blob.Size && !b.verifier.Verified(), err == io.EOF && b.read < b.blob.Size:
		b.fail(otherBlob(b.status, b.begin, b.blob.Digest))
	}
	if err := b.failure(); err != nil {
		return 0, err
	}
	return n, err
}

// MayPush returns nil where the registry lets us push to a repository. It begins an
// upload and ends it.
func (c *Client) MayPush(ctx context.Context, repository reference.Repository) error {
	begin := call{
		op: OpPut, repository: repository, method: http.MethodPost,
		scope: transport.PushScope, path: uploads, limit: maxErrorSize, instead: aReceipt,
	}
	begun, err := c.send(ctx, begin)
	if err != nil {
		return err
	}
	end := begin
	end.method = http.MethodDelete
	if end.url, err = begun.location(); err != nil {
		return about(err, OpPut, repository, nil)
	}
	_, _ = c.send(ctx, end) // else the registry ends it some day
	return nil
}

// LookAtBlob returns an error that wraps ErrPage where a page comes instead of a blob.
// It reads no more than the beginning.
func (c *Client) LookAtBlob(ctx context.Context, repository reference.Repository, blob reference.Digest) error {
	_, err := c.send(ctx, call{
		op: OpGet, repository: repository, reference: blob, method: http.MethodGet,
		scope: transport.PullScope, path: blobs, limit: maxErrorSize, instead: aBlob,
		into: func(got answer, body io.Reader) error {
			begin, err := io.ReadAll(io.LimitReader(body, beginning))
			switch {
			case err != nil:
				return fmt.Errorf("%w: %w", ErrUnavailable, err)
			case len(begin) == 0:
				return &pageError{got.status, "nothing", aBlob}
			case isMarkup(begin):
				return &pageError{got.status, markup(begin), aBlob}
			}
			return nil
		},
	})
	return err
}
