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
	// advance is how many bytes must have been moved since the last cut to continue after
	// another one at once. Otherwise the copy fails, and is tried again later.
	advance = 1 << 20

	// settling is how long a destination gets to notice a cut and to store what it has,
	// before it is asked how much that is.
	settling = 200 * time.Millisecond

	// maxUnseen is the size up to which a blob that is probably missing is sent without a
	// look-up. Most configurations have some kilobytes.
	maxUnseen = 64 << 10

	// maxRedirects is how many redirects of a part of a blob are followed.
	maxRedirects = 10

	// cancelWithin bounds how long a destination is asked to forget an upload.
	cancelWithin = 10 * time.Second
)

// transfer is one blob on its way.
type transfer struct {
	blobs               *Blobs
	source, destination reference.Repository
	empty               bool // the destination was just seen to have nothing
	blob                registry.Descriptor

	upload *registry.Upload // nil: none is under way
	sum    *sum             // of what was read from the source
	// reads and writes are the positions of the last cut on either side.
	reads, writes cuts
	pieces        bool // it was not sent in one piece
	decoded       bool // the source has sent it compressed, or has said so
	asks          bool // requests wait until the destination wants their bodies
	anew          bool // it was begun from its first byte once more
	manner        manner
	sending       int64 // size of the last request's body; negative: unknown
	offset        int64 // of the last request's body in the blob
	redirects     int   // of that request
	resent        bool  // it is sent again, to the target of a redirect
}

// cuts are the cuts of the connection to one side.
type cuts struct {
	any bool
	at  int64
}

// advanced notes a cut, and reports whether enough was moved since the one before.
func (c *cuts) advanced(to int64) bool {
	if c.any && to-c.at < advance {
		return false
	}
	*c = cuts{any: true, at: to}
	return true
}

// isCut reports whether a connection ended in the middle of a blob. A registry that was
// silent for STALL_TIMEOUT has failed, and is no cut.
func isCut(ctx context.Context, err error) bool {
	failed := (*registry.Error)(nil)
	return ctx.Err() == nil && errors.As(err, &failed) && failed.Status == 0 &&
		(errors.Is(err, registry.ErrUnavailable) || errors.Is(err, registry.ErrUnexpected)) &&
		!errors.Is(err, registry.ErrStalled) && !errors.Is(err, context.DeadlineExceeded)
}

// run copies the blob. An upload that another try can continue is kept.
func (t *transfer) run(ctx context.Context) error {
	at := place{t.destination, t.blob.Digest}
	upload, kept := t.blobs.begun.take(at)
	t.adopt(upload)
	t.sum = kept
	if t.pieces = t.upload != nil; !t.pieces {
		if there, err := t.isThere(ctx); err != nil || there {
			return err
		}
		t.sum = newSum(t.blob.Digest)
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

// isThere reports whether the destination has the blob, or has mounted it from another of
// its repositories. If the destination begins an upload instead, that is used.
func (t *transfer) isThere(ctx context.Context) (bool, error) {
	from := t.holder(place{t.destination, t.blob.Digest})
	// A registry that does not mount blobs would be sent what it has.
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

// isUnseen reports whether the blob is small and probably missing, so that a look-up would be in
// vain: the destination has nothing, or the blob is a configuration. Each image has its own,
// and it is copied only if the destination does not have the image.
func (t *transfer) isUnseen() bool {
	return (t.empty || types.MediaType(t.blob.MediaType).IsConfig()) && 0 < t.blob.Size && t.blob.Size <= maxUnseen
}

// holder returns a repository from which the destination can mount the blob, zero if there
// is none.
func (t *transfer) holder(at place) reference.Repository {
	if t.source.Registry() == t.destination.Registry() && t.source != t.destination && t.blobs.held.mounts(t.source.Registry()) {
		return t.source
	}
	return t.blobs.held.elsewhere(at)
}

// mayPass reports whether what was begun can be of use to another try.
func mayPass(ctx context.Context, err error) bool {
	for _, passes := range []error{registry.ErrUnavailable, registry.ErrUnexpected, registry.ErrLimited, registry.ErrPage, registry.ErrEnded} {
		if errors.Is(err, passes) {
			return true
		}
	}
	return ctx.Err() != nil
}

// send sends what the destination does not have of the blob.
func (t *transfer) send(ctx context.Context) error {
	has, err := t.resume(ctx)
	if err != nil {
		return err
	}
	whole := t.sum.n > 0 && t.sum.verified()
	if has > 0 && has == t.sum.n && whole {
		return t.upload.Finish(ctx, nil, has, 0)
	}
	if t.upload == nil && whole { // the answer to its end may have been lost
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

// resume returns how much of the blob the destination has, and asks it if it may have some.
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
		// Many registries answer the same for one byte as for none, and others more than
		// they have stored.
		t.cancel(ctx)
	}
	t.upload = nil
	return 0, nil
}

// push sends the content, from the offset on, and makes the destination store the blob.
func (t *transfer) push(ctx context.Context, c *content, offset int64) error {
	body := meter.Reader(ctx, c)
	for {
		left := int64(-1)
		if c.total >= 0 {
			left = c.total - offset
		}
		t.offset = offset
		if t.manner.ends(left) {
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
		if has >= 0 && has != n && has != n+1 || !whole && t.manner.piece == 0 { // some state their size instead of the last offset
			return &registry.Error{Op: registry.OpPut, Repository: t.destination, Reference: t.blob.Digest, Err: errLost}
		}
		if whole {
			return t.upload.Finish(ctx, nil, n, 0)
		}
		offset = n
	}
}

// errLost is returned if a destination has accepted a part of a blob, and does not have it.
var errLost = fmt.Errorf("%w: the registry has lost a part of the blob", registry.ErrUnavailable)

// recovers reports whether to continue after an error with what the destination does not
// have by then.
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
	if put && (ended || isCut(ctx, err)) && t.writes.advanced(t.sum.n) {
		// A refusal or a redirect may have been lost, because the registry did not read on.
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
	case put && errors.Is(err, registry.ErrNotFound) && t.upload != nil: // it does not know the upload any more
		t.upload = nil
	case t.decoded && errors.Is(err, registry.ErrDigestMismatch), // it may come otherwise
		pieces && (errors.Is(err, registry.ErrDigestMismatch) || put && errors.Is(err, registry.ErrRejected)): // they do not make the blob
		t.cancel(ctx)
	default:
		return false
	}
	t.anew = true
	t.sum.back(0)
	return true
}

// adopt makes an upload, which may be nil, that of the transfer.
func (t *transfer) adopt(upload *registry.Upload) {
	if t.upload = upload; upload != nil {
		upload.Target = nil
		upload.Asks = t.asks
		upload.Declined = func(err error) bool { _, ok := t.other(err); return ok }
	}
}

// other returns another manner if the destination does not take the blob in this one.
func (t *transfer) other(err error) (manner, bool) {
	if t.upload == nil {
		return manner{}, false
	}
	return t.manner.after(err, t.sending, t.upload.MinPiece)
}

// pause waits, and returns false if ctx ends before.
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

// cancel asks the destination to forget the upload.
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
	// begunFor is how long an upload that failed is kept for the next try, which is longer
	// than any pause before it. Registries forget uploads after hours or days.
	begunFor = 30 * time.Minute

	// maxBegun bounds how many are kept.
	maxBegun = 256
)

// begun keeps uploads that may be continued later.
type begun struct {
	now func() time.Time

	mu      sync.Mutex
	uploads map[place]unfinished
}

// unfinished is an upload with what is known of what was sent.
type unfinished struct {
	upload *registry.Upload
	sum    *sum
	at     time.Time
}

func newBegun() *begun {
	return &begun{now: time.Now, uploads: make(map[place]unfinished)}
}

// keep keeps an upload.
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

// take returns the upload that was kept and forgets it; nil if there is none.
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
