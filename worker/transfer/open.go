package transfer

import (
	"bytes"
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
	t := &transfer{blobs: b, source: source, blob: blob, sum: newSum(blob.Digest, b.sizes.milestone)}
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

// Claim looks for a blob at the destination, and mounts it if another repository is known to hold it.
// If the destination has the blob then, release is nil. Otherwise the caller copies it, and calls
// release afterwards. Until then, other callers that need the blob wait, also for other repositories
// if the destination mounts blobs. If the caller did not copy it, one of them does. If empty, the
// destination was empty a moment ago: a small blob is not looked up. The errors are those of Send.
func (b *Blobs) Claim(ctx context.Context, source, destination reference.Repository, blob registry.Descriptor, empty bool) (release func(), err error) {
	at := place{destination, blob.Digest}
	end, err := b.flights.Lead(ctx, at)
	if end == nil {
		return nil, err
	}
	endFirst := func(bool) {}
	release = func() {
		sent := b.held.has(at)
		endFirst(sent)
		end(sent)
	}
	if b.waitsForOthers(at) {
		if first, _ := b.first.Lead(ctx, at.shelf()); first != nil { // another's error is not this one's
			endFirst = first
		}
	}
	there, err := b.has(ctx, &transfer{blobs: b, source: source, destination: destination, empty: empty, blob: blob})
	if there || err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// has reports whether the destination has the blob, or has mounted it.
func (b *Blobs) has(ctx context.Context, t *transfer) (bool, error) {
	at := place{t.destination, t.blob.Digest}
	if b.held.has(at) {
		return true, nil
	}
	there, err := t.isThere(ctx)
	t.cancel(ctx)
	if there && err == nil {
		b.held.add(at)
	}
	return there, err
}

// Put sends a small blob to a destination, which stores it if it has the digest. After a cut, Put looks
// the blob up, and sends it once more if it is missing.
func (b *Blobs) Put(ctx context.Context, destination reference.Repository, blob registry.Descriptor, content []byte) error {
	host := destination.Registry()
	t := &transfer{blobs: b, destination: destination, blob: blob, manner: b.manners.of(host)}
	err := t.put(ctx, content)
	if other, ok := t.other(err); ok {
		t.cancel(ctx)
		t.manner = other
		err = t.put(ctx, content)
	}
	if isCut(ctx, err) && pause(ctx, settling) {
		t.cancel(ctx)
		there := false
		if there, err = b.to.HasBlob(ctx, destination, blob); err == nil && !there {
			err = t.put(ctx, content)
		}
	}
	if err != nil {
		t.cancel(ctx)
		return err
	}
	b.manners.note(host, t.manner)
	b.held.add(place{destination, blob.Digest})
	return nil
}

// put sends the content of the blob, if possible in one request.
func (t *transfer) put(ctx context.Context, content []byte) error {
	upload, err := t.blobs.to.Begin(ctx, t.destination, t.blob.Digest, reference.Repository{})
	if err != nil {
		return err
	}
	t.adopt(upload)
	body, size := bytes.NewReader(content), int64(len(content))
	if t.sending = size; t.manner.ends(size, t.blobs.sizes.small) {
		return t.upload.Finish(ctx, body, 0, size)
	}
	if _, err := t.upload.Append(ctx, body, 0, size, false); err != nil {
		return err
	}
	return t.upload.Finish(ctx, nil, size, 0)
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
	if err == nil && !agrees(has, counted.n) {
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
