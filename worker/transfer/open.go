package transfer

import (
	"context"
	"io"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Blob is the content of a blob of a source. It must be closed.
type Blob struct{ content *content }

// Open requests a blob of a source. Reading from it survives cuts, and uses several connections if
// that is faster. Read returns the last byte only if all bytes have the digest. The errors are
// *registry.Errors, or wrap that of ctx.
func (b *Blobs) Open(ctx context.Context, source reference.Repository, blob registry.Descriptor) (*Blob, error) {
	t := &transfer{blobs: b, source: source, blob: blob, sum: newSum(blob.Digest)}
	content, err := t.open(ctx, 0)
	if err != nil {
		return nil, err
	}
	return &Blob{content}, nil
}

// Size returns the size of the blob in bytes, negative if unknown.
func (b *Blob) Size() int64 { return b.content.total }

// Read implements io.Reader.
func (b *Blob) Read(p []byte) (int, error) { return b.content.Read(p) }

// Close ends the requests for the blob.
func (b *Blob) Close() error {
	b.content.close()
	return nil
}

// Has reports whether the destination has the blob, or has just mounted it from another repository.
// If empty, the destination was empty a moment ago: Has returns false for a small blob without
// looking it up. The errors are those of Send.
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

// Upload is a blob that was sent to a destination, before its digest is known.
type Upload struct {
	blobs       *Blobs
	destination reference.Repository
	upload      *registry.Upload
	size        int64
}

// Begin sends the content of a blob to a destination. The size is negative if unknown.
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

// End makes the destination store the content as the blob with this digest.
func (u *Upload) End(ctx context.Context, digest reference.Digest) error {
	u.upload.Name(digest)
	if err := u.upload.Finish(ctx, nil, u.size, 0); err != nil {
		return err
	}
	u.blobs.held.add(place{u.destination, digest})
	return nil
}

// counter counts the bytes that are read.
type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}
