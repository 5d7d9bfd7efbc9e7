package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/osism/skopeo-worker/shared/reference"
)

// HasBlob looks a blob up. A success that says neither the digest nor the size is none
// of a registry, or of one that does not say enough: then it is to be uploaded.
func (c *Client) HasBlob(ctx context.Context, repository reference.Repository, blob Descriptor) (bool, error) {
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
	said, err := reference.ParseDigest(got.header.Get(digestHeader))
	if err == nil && said.Algorithm() == blob.Digest.Algorithm() {
		return said == blob.Digest, nil
	}
	return blob.Size > 0 && got.size == blob.Size && declaredType(got.header) != "text/html", nil
}

// Upload is a blob that a registry has begun to take. It is not safe for concurrent use.
type Upload struct {
	client     *Client
	repository reference.Repository
	blob       reference.Digest
	location   *url.URL // where it goes on
}

// Begin asks a registry to take a blob. If from is not zero, the registry may take it
// from there, which is another of its repositories: then the blob is there, and the
// upload is nil.
func (c *Client) Begin(ctx context.Context, repository reference.Repository, blob reference.Digest, from reference.Repository) (*Upload, error) {
	u := &Upload{client: c, repository: repository, blob: blob}
	begin := u.call(http.MethodPost)
	if !from.IsZero() {
		at, err := c.locate(from)
		if err != nil {
			return nil, about(err, OpPut, repository, blob)
		}
		begin.mount = from
		begin.query = url.Values{"mount": {blob.String()}, "from": {at.path()}}.Encode()
	}
	got, err := c.send(ctx, begin)
	if err != nil {
		return nil, err
	}
	if !from.IsZero() && got.status == http.StatusCreated {
		return nil, nil
	}
	if u.location, err = got.location(); err != nil {
		return nil, about(err, OpPut, repository, blob)
	}
	return u, nil
}

// call is a request about the upload.
func (u *Upload) call(method string) call {
	return call{
		op: OpPut, repository: u.repository, reference: u.blob, method: method, url: u.location,
		scope: transport.PushScope, path: uploads, limit: maxErrorSize, instead: aReceipt,
	}
}

// piece is a request that sends a part of the blob.
func (u *Upload) piece(method string, content io.Reader, offset, size int64) call {
	piece := u.call(method)
	piece.contentType, piece.large, piece.within = "application/octet-stream", true, u.client.copyTimeout
	if size != 0 {
		piece.stream, piece.offset, piece.size = content, offset, size
	}
	return piece
}

// Append sends a part of the blob, which begins at the offset; a negative size is not
// known. It returns how much of the blob the registry has then, negative where it does
// not say.
func (u *Upload) Append(ctx context.Context, content io.Reader, offset, size int64) (has int64, err error) {
	got, err := u.client.send(ctx, u.piece(http.MethodPatch, content, offset, size))
	if err != nil {
		return 0, err
	}
	if err := u.moved(got); err != nil {
		return 0, err
	}
	if has, ok := received(got.header); ok {
		return has, nil
	}
	return -1, nil
}

// moved notes where the upload goes on. Where nothing is said of that, it is the same
// place.
func (u *Upload) moved(got answer) error {
	if got.header.Get("Location") == "" && (got.status == http.StatusAccepted || got.status == http.StatusNoContent) {
		return nil
	}
	location, err := got.location()
	if err != nil {
		return about(err, OpPut, u.repository, u.blob)
	}
	u.location = location
	return nil
}

// received reads how many bytes of a blob a registry has from its Range header, "0-99".
// "0-0" is what many say of none.
func received(header http.Header) (int64, bool) {
	text := header.Get("Range")
	first, last, ok := strings.Cut(strings.TrimPrefix(text, "bytes="), "-")
	end, err := strconv.ParseInt(last, 10, 64)
	switch {
	case !ok || err != nil || first != "0" || end < 0:
		return 0, false
	case end == 0:
		return 0, true
	}
	return end + 1, true
}

// Offset asks the registry how many bytes of the blob it has.
func (u *Upload) Offset(ctx context.Context) (int64, error) {
	got, err := u.client.send(ctx, u.call(http.MethodGet))
	if err != nil {
		return 0, err
	}
	has, ok := received(got.header)
	if !ok {
		return 0, about(fmt.Errorf("%w: the registry does not say what it has of the blob", ErrUnexpected), OpPut, u.repository, u.blob)
	}
	return has, u.moved(got)
}

// Finish sends the rest of the blob, which begins at the offset, and makes the registry
// store it; a negative size is not known.
func (u *Upload) Finish(ctx context.Context, content io.Reader, offset, size int64) error {
	put := u.piece(http.MethodPut, content, offset, size)
	end := *u.location
	query := end.Query()
	query.Set("digest", u.blob.String())
	end.RawQuery = query.Encode()
	put.url = &end
	got, err := u.client.send(ctx, put)
	if err != nil || got.status == http.StatusCreated || got.header.Get(digestHeader) == u.blob.String() {
		return err
	}
	// Some registries say another status; so does what is none.
	there, err := u.client.HasBlob(ctx, u.repository, Descriptor{Digest: u.blob, Size: offset + size})
	if err == nil && !there {
		err = about(noReceipt(got), OpPut, u.repository, u.blob)
	}
	return err
}

// Cancel asks the registry to forget what it has of the blob. Many want a permission for
// that which nobody has who may only push; then they forget it some day.
func (u *Upload) Cancel(ctx context.Context) { _, _ = u.client.sendNow(ctx, u.call(http.MethodDelete)) }

// PutBlob uploads a blob, whether it is there or not.
func (c *Client) PutBlob(ctx context.Context, repository reference.Repository, blob Descriptor, content io.Reader) error {
	u, err := c.Begin(ctx, repository, blob.Digest, reference.Repository{})
	if err != nil {
		return err
	}
	return u.Finish(ctx, content, 0, blob.Size)
}

// MayPush returns nil where the registry lets us push to a repository. It begins an
// upload and ends it.
func (c *Client) MayPush(ctx context.Context, repository reference.Repository) error {
	u, err := c.Begin(ctx, repository, reference.Digest{}, reference.Repository{})
	if err != nil {
		return err
	}
	u.Cancel(ctx)
	return nil
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
