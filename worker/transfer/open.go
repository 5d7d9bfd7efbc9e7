package transfer

import (
	"context"
	"io"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Blob is a blob of a source that is read. It must be closed.
type Blob struct{ content *content }

// Open requests a blob of a source. What is read from it continues after a cut, and comes in parts
// if that is faster. The last byte is read only if the blob has its digest. The errors are
// *registry.Errors, or wrap that of ctx.
func (b *Blobs) Open(ctx context.Context, source reference.Repository, blob registry.Descriptor) (*Blob, error) {
	t := &transfer{blobs: b, source: source, blob: blob, sum: newSum(blob.Digest)}
	content, err := t.open(ctx, 0)
	if err != nil {
		return nil, err
	}
	return &Blob{content}, nil
}

// Size returns the size of the blob in bytes; it is negative if it is not known.
func (b *Blob) Size() int64 { return b.content.total }

// Read implements io.Reader.
func (b *Blob) Read(p []byte) (int, error) { return b.content.Read(p) }

// Close ends the requests for the blob.
func (b *Blob) Close() error {
	b.content.close()
	return nil
}

// Has reports whether the destination has the blob, or has mounted it from a repository that is
// known to hold it. empty says that the destination was just seen to have nothing: then it is
// not asked for a small blob. The errors are those of Send.
func (b *Blobs) Has(ctx context.Context, source, destination reference.Repository, blob registry.Descriptor, empty bool) (bool, error) {
	at := place{destination, blob.Digest}
	if b.held.has(at) {
		return true, nil
	}
	t := &transfer{blobs: b, source: source, destination: destination, empty: empty, blob: blob}
	there, err := t.isThere(ctx)
	t.cancel(ctx)
	if there && err == nil {
		b.held.add(at)
	}
	return there, err
}

// Upload is a blob that is sent to a destination, of which the digest is not known before its end.
type Upload struct {
	blobs       *Blobs
	destination reference.Repository
	upload      *registry.Upload
	size        int64
}

// Begin sends the content of a blob to a destination. A negative size is not known.
func (b *Blobs) Begin(ctx context.Context, destination reference.Repository, content io.Reader, size int64) (*Upload, error) {
	upload, err := b.to.Begin(ctx, destination, reference.Digest{}, reference.Repository{})
	if err != nil {
		return nil, err
	}
	counted := &counter{Reader: content}
	has, err := upload.Append(ctx, counted, 0, size, false)
	if err == nil && has >= 0 && has != counted.n {
		err = &registry.Error{Op: registry.OpPut, Repository: destination, Err: errLost}
	}
	if err != nil {
		return nil, err
	}
	return &Upload{b, destination, upload, counted.n}, nil
}

// End makes the destination store the content, if it has the digest.
func (u *Upload) End(ctx context.Context, digest reference.Digest) error {
	u.upload.Name(digest)
	if err := u.upload.Finish(ctx, nil, u.size, 0); err != nil {
		return err
	}
	u.blobs.held.add(place{u.destination, digest})
	return nil
}

// counter counts what is read.
type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}
