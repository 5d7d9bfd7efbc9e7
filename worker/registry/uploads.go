package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/osism/skopeo-worker/shared/reference"
)

// HasBlob reports whether a repository has a blob. A success with neither the digest nor the size
// is not proof: then HasBlob returns false, and the blob is uploaded. It also returns false if the
// registry's storage refuses the HEAD, because it permits only GET.
func (c *Client) HasBlob(ctx context.Context, repository reference.Repository, blob Descriptor) (bool, error) {
	got, err := c.send(ctx, &call{
		op: OpHead, repository: repository, reference: blob.Digest, method: http.MethodHead,
		scope: transport.PullScope, path: blobs, limit: maxErrorSize, instead: aBlob,
		declined: func(err error) bool { return errors.Is(err, errStorage) },
	})
	if Absent(err) || servesNoHead(err) || errors.Is(err, errStorage) {
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

// Upload is an upload of a blob that a registry has accepted. It is not safe for concurrent
// use.
type Upload struct {
	// MinPiece is the smallest piece, in bytes, that the registry takes, unless it is the
	// last one; 0 if it states none.
	MinPiece int64
	// Asks makes requests wait for 100 Continue before they send their content, if the registry
	// supports that. A redirect or a refusal then comes before anything is sent.
	Asks bool
	// Declined reports whether the error of a request is no failure of the registry, because
	// the caller sends the blob in another way then; optional.
	Declined func(error) bool
	// Target is set if the registry has redirected a part that was read already: the next part
	// goes there. Another try must not use it, because the redirect may lead elsewhere by then.
	Target *url.URL

	client     *Client
	repository reference.Repository
	blob       reference.Digest
	location   *url.URL // of the next request
	own        string   // part of all its locations below /v2/, which are those of the repository
}

// Begin begins the upload of a blob. from is optional: the registry may mount the blob from
// this repository, which must be its own. If it does, the upload is nil.
func (c *Client) Begin(ctx context.Context, repository reference.Repository, blob reference.Digest, from reference.Repository) (*Upload, error) {
	u := &Upload{client: c, repository: repository, blob: blob}
	begin := u.call(http.MethodPost)
	to, err := c.locate(repository)
	if err != nil {
		return nil, about(err, OpPut, repository, blob)
	}
	u.own = begin.own(to)
	if !from.IsZero() {
		at, err := c.locate(from)
		if err != nil {
			return nil, about(err, OpPut, repository, blob)
		}
		begin.mount, begin.declined = from, IsDeclined
		begin.query = url.Values{"mount": {blob.String()}, "from": {at.path()}}.Encode()
	}
	got, err := c.send(ctx, begin)
	if err != nil {
		return nil, err
	}
	if !from.IsZero() && got.status == http.StatusCreated {
		there, err := u.isStored(ctx, got, 0)
		if err == nil && !there {
			err = about(fmt.Errorf("%w: %w", errNotMounted, noReceipt(got)), OpPut, repository, blob)
		}
		return nil, err
	}
	if u.location, err = got.location(u.own); err != nil {
		return nil, about(err, OpPut, repository, blob)
	}
	u.MinPiece, _ = strconv.ParseInt(got.header.Get("OCI-Chunk-Min-Length"), 10, 64) // optional
	return u, nil
}

// Name sets the digest of an upload that was begun without one.
func (u *Upload) Name(blob reference.Digest) { u.blob = blob }

// call returns a request about the upload.
func (u *Upload) call(method string) *call {
	return &call{
		op: OpPut, repository: u.repository, reference: u.blob, method: method, url: u.location,
		scope: transport.PushScope, path: uploads, limit: maxErrorSize, instead: aReceipt,
	}
}

// piece returns a request that sends a part of the blob.
func (u *Upload) piece(method string, content io.Reader, offset, size int64) *call {
	piece := u.call(method)
	piece.url, u.Target = cmp.Or(u.Target, u.location), nil
	piece.contentType, piece.large, piece.within = "application/octet-stream", true, u.client.copyTimeout
	piece.declined = func(err error) bool { return errors.Is(err, ErrRedirected) || u.Declined != nil && u.Declined(err) }
	piece.asks = u.Asks || u.client.redirects.isKnown(piece.url.Host)
	if size != 0 {
		piece.stream, piece.offset, piece.size = content, offset, size
		piece.apart = size < 0 || size > apartFrom
	}
	return piece
}

// Append sends a part of the blob that begins at the offset. A negative size is unknown. If
// it is one of several pieces, its range is stated. Append
// returns how many bytes of the blob the registry has, or a negative number if the registry
// does not state it.
func (u *Upload) Append(ctx context.Context, content io.Reader, offset, size int64, piece bool) (has int64, err error) {
	patch := u.piece(http.MethodPatch, content, offset, size)
	patch.ranged = piece
	got, err := u.client.send(ctx, patch)
	if err = u.follow(patch, err); err != nil {
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

// follow notes whether a request was redirected, and the target of the redirect if the error is
// one. It returns the error, which is also an ErrUploadUnknown if the upload does not exist.
func (u *Upload) follow(sent *call, err error) error {
	if sent.moved {
		u.client.redirects.note(sent.url.Host)
	}
	if redirect, ok := errors.AsType[*redirectedError](err); ok {
		u.Target = redirect.to
	}
	if missing, ok := errors.AsType[*Error](err); ok && errors.Is(err, ErrNotFound) && !errors.Is(err, errNoRepository) {
		missing.Err = fmt.Errorf("%w: %w", ErrUploadUnknown, missing.Err)
	}
	return err
}

// moved notes the location of the next request. It stays the same if the registry does not
// send one in an answer that is about an upload.
func (u *Upload) moved(got answer) error {
	known := got.status == http.StatusAccepted || got.status == http.StatusNoContent ||
		got.header.Get("Range") != "" || got.header.Get("Docker-Upload-UUID") != ""
	if got.header.Get("Location") == "" && known {
		return nil
	}
	location, err := got.location(u.own)
	if err != nil {
		return about(err, OpPut, u.repository, u.blob)
	}
	u.location = location
	return nil
}

// received returns how many bytes of a blob a registry has according to its Range header, such
// as "0-99". Many send "0-0" for none.
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
		return 0, about(fmt.Errorf("%w: the registry does not state how much of the blob it has", ErrUnexpected), OpPut, u.repository, u.blob)
	}
	return has, u.moved(got)
}

// Finish sends the rest of the blob, which begins at the offset, and makes the registry store
// it. A negative size is unknown.
func (u *Upload) Finish(ctx context.Context, content io.Reader, offset, size int64) error {
	put := u.piece(http.MethodPut, content, offset, size)
	end := *put.url
	query := end.Query()
	query.Set("digest", u.blob.String())
	end.RawQuery = query.Encode()
	put.url = &end
	got, err := u.client.send(ctx, put)
	if err = u.follow(put, err); err != nil {
		return err
	}
	there, err := u.isStored(ctx, got, offset+size)
	if err == nil && !there {
		err = about(noReceipt(got), OpPut, u.repository, u.blob)
	}
	return err
}

// isStored reports whether the registry has stored the blob. The answer to a PUT or to a request to
// mount must have the status 201 and a Location (OCI distribution specification, "Pushing blobs").
// Another answer may be a proxy's: then the blob is looked up. size is optional.
func (u *Upload) isStored(ctx context.Context, got answer, size int64) (bool, error) {
	stored := got.header.Get(digestHeader)
	if stored == u.blob.String() || stored == "" && got.status == http.StatusCreated && got.header.Get("Location") != "" {
		return true, nil
	}
	return u.client.HasBlob(ctx, u.repository, Descriptor{Digest: u.blob, Size: size})
}

// Cancel asks the registry to delete the upload. Many require a permission that clients rarely
// have, and delete it themselves after some time.
func (u *Upload) Cancel(ctx context.Context) { _, _ = u.client.sendNow(ctx, u.call(http.MethodDelete)) }

// PutBlob uploads a blob, whether or not the registry has it.
func (c *Client) PutBlob(ctx context.Context, repository reference.Repository, blob Descriptor, content io.Reader) error {
	u, err := c.Begin(ctx, repository, blob.Digest, reference.Repository{})
	if err != nil {
		return err
	}
	return u.Finish(ctx, content, 0, blob.Size)
}

// MayPush returns nil if the registry permits pushing to a repository. It begins an upload and
// cancels it.
func (c *Client) MayPush(ctx context.Context, repository reference.Repository) error {
	u, err := c.Begin(ctx, repository, reference.Digest{}, reference.Repository{})
	if err != nil {
		return err
	}
	u.Cancel(ctx)
	return nil
}

// location returns the URL of an upload. It may be on another host, which gets no credentials. If
// it is below /v2/, it must contain own; some registries take uploads elsewhere.
func (a answer) location(own string) (*url.URL, error) {
	text := a.header.Get("Location")
	switch {
	case text == "" && a.status != http.StatusAccepted:
		return nil, noReceipt(a)
	case text == "":
		return nil, fmt.Errorf("%w: the answer has no location for the blob", ErrUnexpected)
	}
	return parseLocation(a.url, text, own)
}

// parseLocation parses a Location header of the answer to a request. Its errors wrap
// ErrUnexpected.
func parseLocation(of *url.URL, text, own string) (*url.URL, error) {
	location, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: the upload location is not a URL", ErrUnexpected)
	}
	bad := fmt.Errorf("%w: the registry wants the blob at %s", ErrUnexpected, reference.Quote(location.Path))
	if location.User != nil || location.Opaque != "" {
		return nil, bad
	}
	location = of.ResolveReference(location)
	location.Fragment, location.RawFragment = "", ""
	if !stays(location, own) {
		return nil, bad
	}
	if location.Scheme != "https" && location.Scheme != "http" || location.Host == "" {
		return nil, bad
	}
	return location, nil
}
