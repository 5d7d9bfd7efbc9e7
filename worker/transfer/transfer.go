package transfer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/meter"
	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	// settling is how long a destination gets to notice a cut and to store what it has received,
	// before it is asked how much it has.
	settling = 200 * time.Millisecond

	// maxUnseen is the size up to which a blob that is probably missing is sent without looking it
	// up. Most image configurations have some kilobytes.
	maxUnseen = 64 << 10

	// maxRedirects is how many redirects of a part of a blob are followed.
	maxRedirects = 10

	// cancelWithin bounds the request that cancels an upload.
	cancelWithin = 10 * time.Second
)

// transfer copies one blob.
type transfer struct {
	blobs               *Blobs
	source, destination reference.Repository
	empty               bool // the destination was empty a moment ago
	blob                registry.Descriptor

	upload *registry.Upload // nil if none is under way
	sum    *sum             // of the bytes read from the source
	// reads and writes are the last cuts of the source and of the destination.
	reads, writes cuts
	pieces        bool // the blob was not read or sent in one piece
	decoded       bool // the source has sent the blob with a Content-Encoding
	asks          bool // requests have Expect: 100-continue
	anew          bool // the copy was restarted from the first byte
	manner        manner
	sending       int64 // size of the last request's content; negative if unknown
	offset        int64 // of the last request's content in the blob
	redirects     int   // of the last request
	resent        bool  // the last request is sent again, to the target of a redirect
}

// cuts records the last cut of the connection to one side.
type cuts struct {
	any bool
	at  int64 // bytes of the blob that had moved
}

// advanced reports whether enough bytes have moved since the last cut, and if so records this one.
func (c *cuts) advanced(to, enough int64) bool {
	if c.any && to-c.at < enough {
		return false
	}
	*c = cuts{any: true, at: to}
	return true
}

// isCut reports whether a connection ended in the middle of a blob. A registry that sends nothing for
// STALL_TIMEOUT has failed: that is not a cut.
func isCut(ctx context.Context, err error) bool {
	failed := (*registry.Error)(nil)
	return ctx.Err() == nil && errors.As(err, &failed) && failed.Status == 0 &&
		(errors.Is(err, registry.ErrUnavailable) || errors.Is(err, registry.ErrUnexpected)) &&
		!errors.Is(err, registry.ErrStalled) && !errors.Is(err, context.DeadlineExceeded)
}

// run copies the blob. If it fails, it keeps an upload that a retry can continue.
func (t *transfer) run(ctx context.Context) error {
	at := place{t.destination, t.blob.Digest}
	upload, kept := t.blobs.begun.take(at)
	t.adopt(upload)
	t.sum = kept
	if t.pieces = t.upload != nil; !t.pieces {
		if there, err := t.isThere(ctx); err != nil || there {
			return err
		}
		t.sum = newSum(t.blob.Digest, t.blobs.sizes.milestone)
	}
	err := t.send(ctx)
	for err != nil && t.recovers(ctx, err) {
		err = t.send(ctx)
	}
	switch {
	case err == nil || t.upload == nil:
	case mayPass(ctx, err):
		t.blobs.begun.keep(at, t.upload, t.sum)
	default:
		t.cancel(ctx)
	}
	return err
}

// isThere reports whether the destination has the blob, or has just mounted it from another of its
// repositories. If the destination begins an upload instead of mounting it, that upload is used.
func (t *transfer) isThere(ctx context.Context) (bool, error) {
	from := t.holder(place{t.destination, t.blob.Digest})
	// A registry that does not mount blobs must be asked, or it would be sent a blob that it has.
	if !t.isUnseen() && (from.IsZero() || !t.blobs.held.isProven(from.Registry())) {
		if there, err := t.blobs.to.HasBlob(ctx, t.destination, t.blob); err != nil || there {
			return there, err
		}
	}
	if from.IsZero() {
		return false, nil
	}
	upload, err := t.blobs.to.Begin(ctx, t.destination, t.blob.Digest, from)
	if err != nil && !registry.IsDeclined(err) {
		return false, err
	}
	taken := err == nil && upload == nil
	t.blobs.held.mounted(place{from, t.blob.Digest}, taken)
	t.adopt(upload)
	return taken, nil
}

// isUnseen reports whether the blob is small and probably missing, so that looking it up would cost
// more than sending it. It is if the destination is empty, or if the blob is a configuration: each
// image has its own, and is copied only if the destination lacks the image.
func (t *transfer) isUnseen() bool {
	return (t.empty || types.MediaType(t.blob.MediaType).IsConfig()) && 0 < t.blob.Size && t.blob.Size <= maxUnseen
}

// holder returns a repository from which the destination can mount the blob; zero if none is known.
func (t *transfer) holder(at place) reference.Repository {
	if t.source.Registry() == t.destination.Registry() && t.source != t.destination && t.blobs.held.mounts(t.source.Registry()) {
		return t.source
	}
	return t.blobs.held.elsewhere(at)
}

// mayPass reports whether the error may be temporary, so that a retry can continue the upload.
func mayPass(ctx context.Context, err error) bool {
	for _, passes := range []error{registry.ErrUnavailable, registry.ErrUnexpected, registry.ErrLimited, registry.ErrPage, registry.ErrEnded} {
		if errors.Is(err, passes) {
			return true
		}
	}
	return ctx.Err() != nil
}

// send sends the bytes of the blob that the destination lacks.
func (t *transfer) send(ctx context.Context) error {
	has, err := t.resume(ctx)
	if err != nil {
		return err
	}
	whole := t.sum.n > 0 && t.sum.verified()
	if has > 0 && has == t.sum.n && whole {
		return t.upload.Finish(ctx, nil, has, 0)
	}
	if t.upload == nil && whole { // the blob may be stored, and the answer lost
		if there, err := t.blobs.to.HasBlob(ctx, t.destination, t.blob); err != nil || there {
			return err
		}
	}
	c, err := t.open(ctx, has)
	if err != nil {
		return err
	}
	defer c.close()
	if t.upload == nil {
		upload, err := t.blobs.to.Begin(ctx, t.destination, t.blob.Digest, reference.Repository{})
		if err != nil {
			return err
		}
		t.adopt(upload)
	}
	err = t.push(ctx, c, has)
	// If the source fails, the destination's error is only a consequence.
	if failed := c.failure(); failed != nil {
		return failed
	}
	return err
}

// resume returns how many bytes of the blob the destination has. It asks the destination only if bytes
// were sent.
func (t *transfer) resume(ctx context.Context) (int64, error) {
	if t.resent {
		t.resent = false
		return t.offset, nil
	}
	if t.upload == nil || t.sum.n == 0 {
		return 0, nil
	}
	has, err := t.upload.Offset(ctx)
	switch {
	case err == nil && 0 < has && has <= t.sum.n:
		return has, nil
	case err != nil && mayPass(ctx, err) && !errors.Is(err, registry.ErrUnexpected):
		return 0, err
	case err == nil:
		// The answer cannot be used: many registries return the same for one byte as for none, and
		// some return more than they have.
		t.cancel(ctx)
	}
	t.upload = nil
	return 0, nil
}

// push sends the content that begins at the offset, and makes the destination store the blob.
func (t *transfer) push(ctx context.Context, c *content, offset int64) error {
	body := meter.Reader(ctx, c)
	for {
		left := int64(-1)
		if c.total >= 0 {
			left = c.total - offset
		}
		t.offset = offset
		if t.manner.ends(left, t.blobs.sizes.small) {
			t.sending = left
			return t.upload.Finish(ctx, body, offset, left)
		}
		part, size := t.manner.part(body, left)
		t.sending = size
		has, err := t.upload.Append(ctx, part, offset, size, t.manner.piece > 0)
		if err != nil {
			return err
		}
		t.redirects = 0
		n, whole := c.progress()
		if !agrees(has, n) || !whole && t.manner.piece == 0 {
			return &registry.Error{Op: registry.OpPut, Repository: t.destination, Reference: t.blob.Digest, Err: errLost}
		}
		if whole {
			return t.upload.Finish(ctx, nil, n, 0)
		}
		offset = n
	}
}

// agrees reports whether a destination may have the first n bytes of a blob according to its answer, which
// is negative if unknown. Some registries state the size instead of the last offset, and many the same for
// one byte as for none.
func agrees(has, n int64) bool {
	return has < 0 || has == n || has == n+1 || has == 0 && n == 1
}

// errLost is returned if a destination has accepted a part of a blob, but does not have it.
var errLost = fmt.Errorf("%w: the registry has lost a part of the blob", registry.ErrUnavailable)

// recovers reports whether to call send again after an error.
func (t *transfer) recovers(ctx context.Context, err error) bool {
	failed := (*registry.Error)(nil)
	if ctx.Err() != nil || !errors.As(err, &failed) {
		return false
	}
	put := failed.Op == registry.OpPut
	if put && errors.Is(err, registry.ErrRedirected) {
		t.redirects++
		t.resent = t.redirects <= maxRedirects
		return t.resent
	}
	ended := errors.Is(err, registry.ErrEnded) || failed.Status == http.StatusRequestedRangeNotSatisfiable
	if put && (ended || isCut(ctx, err)) && t.writes.advanced(t.sum.n, t.blobs.sizes.advance) {
		// The registry may have refused or redirected the request without reading its content.
		t.asks = t.asks || !ended
		if t.upload != nil {
			t.upload.Asks = t.asks
		}
		return ended || pause(ctx, settling)
	}
	if other, ok := t.other(err); ok {
		t.cancel(ctx)
		t.manner = other
		t.sum.back(0)
		return true
	}
	pieces := t.pieces || t.reads.any || t.writes.any || t.manner.piece > 0
	switch {
	case t.anew:
		return false
	case put && errors.Is(err, registry.ErrNotFound) && t.upload != nil: // the registry has forgotten the upload
		t.upload = nil
	case t.decoded && errors.Is(err, registry.ErrDigestMismatch), // the source may send it without an encoding
		pieces && (errors.Is(err, registry.ErrDigestMismatch) || put && errors.Is(err, registry.ErrRejected)): // a piece may have been wrong
		t.cancel(ctx)
	default:
		return false
	}
	t.anew = true
	t.sum.back(0)
	return true
}

// adopt sets the upload of the transfer. upload may be nil.
func (t *transfer) adopt(upload *registry.Upload) {
	if t.upload = upload; upload != nil {
		upload.Target = nil
		upload.Asks = t.asks
		upload.Declined = func(err error) bool { _, ok := t.other(err); return ok }
	}
}

// other returns another manner to try if the destination refuses the current one.
func (t *transfer) other(err error) (manner, bool) {
	if t.upload == nil {
		return manner{}, false
	}
	return t.manner.after(err, t.sending, t.upload.MinPiece, t.blobs.sizes)
}

// pause waits for d. It returns false if ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// cancel cancels the upload at the destination.
func (t *transfer) cancel(ctx context.Context) {
	if t.upload == nil {
		return
	}
	ctx, end := context.WithTimeout(context.WithoutCancel(ctx), cancelWithin)
	defer end()
	t.upload.Cancel(ctx)
	t.upload = nil
}

const (
	// begunFor is how long an upload that failed is kept: longer than any pause before a retry.
	// Registries forget uploads after hours or days.
	begunFor = 30 * time.Minute

	// maxBegun is how many uploads are kept.
	maxBegun = 256
)

// begun keeps uploads that a retry may continue.
type begun struct {
	now func() time.Time

	mu      sync.Mutex
	uploads map[place]unfinished
}

// unfinished is an upload, and the sum of the bytes read for it.
type unfinished struct {
	upload *registry.Upload
	sum    *sum
	at     time.Time
}

func newBegun() *begun {
	return &begun{now: time.Now, uploads: make(map[place]unfinished)}
}

// keep keeps an upload for a retry.
func (b *begun) keep(p place, upload *registry.Upload, s *sum) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p, u := range b.uploads {
		if b.now().Sub(u.at) >= begunFor {
			delete(b.uploads, p)
		}
	}
	if len(b.uploads) < maxBegun {
		b.uploads[p] = unfinished{upload, s, b.now()}
	}
}

// take removes and returns a kept upload; nil if none was kept.
func (b *begun) take(p place) (*registry.Upload, *sum) {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.uploads[p]
	delete(b.uploads, p)
	if u.upload == nil || b.now().Sub(u.at) >= begunFor {
		return nil, nil
	}
	return u.upload, u.sum
}
