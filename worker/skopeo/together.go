package skopeo

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/child"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
)

// maxTogether is how many images one process copies. It copies them one after the other, and their
// blobs may be in memory.
const maxTogether = 8

// Turn is the permission to copy an image.
type Turn struct {
	// Copy copies the blobs of an image whose manifest was pulled. skopeo sends its requests to this
	// process, which sends them to the registries. Copy returns the error of the first request that
	// failed. If it returns nil, the destination has the blobs, and the manifest can be put. The error
	// wraps registry.ErrBadManifest if the manifest is not that of an image. Copy is called at most
	// once.
	Copy func(ctx context.Context) error
	// End ends the turn.
	End func()
}

// Turn waits until fewer than AtOnce processes copy images. A small image needs no process of its
// own if one has begun to copy other small images between the same registries, and skopeo has not
// asked yet which. skopeo takes longer to start than to copy one of them.
func (r *Runner) Turn(ctx context.Context, image Image) (Turn, error) {
	for {
		var b *batch
		leads := true
		if r.isSmall(image) {
			b, leads = r.batches.join(between{image.Source.Registry(), image.Destination.Registry()})
		}
		if leads {
			return r.lead(ctx, b, image)
		}
		select {
		case <-b.begun:
			if !b.abandoned {
				return Turn{Copy: func(ctx context.Context) error { return r.copyTogether(ctx, b, image, func() {}) }, End: func() {}}, nil
			}
		case <-ctx.Done():
			return Turn{}, interrupted(ctx)
		}
	}
}

// lead waits for the turn of a process, and returns the turn of the first image of the batch. b may be
// nil.
func (r *Runner) lead(ctx context.Context, b *batch, image Image) (Turn, error) {
	free, err := r.Slot(ctx)
	if err != nil {
		r.batches.begin(b, true)
		return Turn{}, err
	}
	r.batches.begin(b, false)
	if b == nil {
		return Turn{Copy: func(ctx context.Context) error { return r.alone(ctx, image) }, End: free}, nil
	}
	begun := false
	return Turn{
		Copy: func(ctx context.Context) error {
			begun = true
			return r.copyTogether(ctx, b, image, func() { go r.runTogether(context.WithoutCancel(ctx), b, free) })
		},
		End: func() {
			if !begun {
				r.batches.end(b, errLeft)
				free()
			}
		},
	}, nil
}

// Slot waits until fewer than AtOnce processes run. A process may then run until free is called.
func (r *Runner) Slot(ctx context.Context) (free func(), err error) {
	if r.AtOnce <= 0 {
		return func() {}, nil
	}
	r.once.Do(func() { r.slots = make(chan struct{}, r.AtOnce) })
	select {
	case r.slots <- struct{}{}:
		return func() { <-r.slots }, nil
	case <-ctx.Done():
		return nil, interrupted(ctx)
	}
}

// isSmall reports whether the image may be copied together with others: if reading ahead spares
// skopeo each wait for its blobs. The signature policy must not depend on the digest, because skopeo
// does not ask about it then. skopeo must not annotate a list with the image (zstd), or change the
// image (schema 1).
func (r *Runner) isSmall(image Image) bool {
	kind := types.MediaType(image.Manifest.MediaType)
	blobs, err := image.Manifest.Blobs()
	if err != nil || !kind.IsImage() || len(blobs) > layersAhead+1 || image.Manifest.Digest.Algorithm() != reference.DigestOf(nil).Algorithm() {
		return false
	}
	for _, blob := range blobs {
		if blob.Size <= 0 || blob.Size > maxKept || strings.Contains(blob.MediaType, "zstd") {
			return false
		}
	}
	p, err := policy.Load(r.root)
	return err == nil && !p.IsStrict()
}

// batches are the processes that images can still join.
type batches struct {
	mu   sync.Mutex
	open map[between]*batch
}

// between is the registries between which images are copied. A registry that is slow does not delay
// the images of others.
type between struct{ source, destination string }

// batch is the images that one process copies.
type batch struct {
	between between
	serving *serving
	size    int // images that have joined

	begun     chan struct{} // closed when the process has its turn, or will not start
	abandoned bool          // it will not start
	ended     chan struct{} // closed when the process has ended
	err       error
}

// join returns a batch, and whether the caller's image is its first.
func (t *batches) join(key between) (_ *batch, leads bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.open[key]; b != nil && b.size < maxTogether && b.serving.isOpen() {
		b.size++
		return b, false
	}
	if t.open == nil {
		t.open = map[between]*batch{}
	}
	b := &batch{between: key, serving: newServing(true), size: 1, begun: make(chan struct{}), ended: make(chan struct{})}
	t.open[key] = b
	return b, true
}

// begin notes that the process has its turn, or that it will not start. The batch may be nil.
func (t *batches) begin(b *batch, abandoned bool) {
	if b == nil {
		return
	}
	b.abandoned = abandoned
	if abandoned {
		t.end(b, errLeft)
	}
	close(b.begun)
}

// end notes how the process has ended, or that it will not start. Only the first call counts.
func (t *batches) end(b *batch, err error) {
	b.serving.close()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[b.between] == b {
		delete(t.open, b.between)
	}
	select {
	case <-b.ended:
	default:
		b.err = err
		close(b.ended)
	}
}

// errLeft means that an image is to be copied by another process.
var errLeft = errors.New("another process copies the image")

// copyTogether copies an image with the others of a batch. It calls start when the image has joined them,
// or cannot. If the process does not copy the image, copyTogether starts another one.
func (r *Runner) copyTogether(ctx context.Context, b *batch, image Image, start func()) error {
	a, err := b.serving.add(ctx, image)
	start()
	if err == nil {
		err = b.await(ctx, a)
	}
	if !errors.Is(err, errLeft) {
		return err
	}
	free, err := r.Slot(ctx)
	if err != nil {
		return err
	}
	defer free()
	return r.alone(ctx, image)
}

// runTogether runs the process of a batch. It ends when the images are copied, or one of them fails or
// is interrupted.
func (r *Runner) runTogether(ctx context.Context, b *batch, free func()) {
	defer free()
	err := errLeft
	if !b.serving.isEmpty() {
		err = r.process(ctx, b.serving)
	}
	r.batches.end(b, err)
}

// await waits until an image is copied, and for the last image until the process has ended.
func (b *batch) await(ctx context.Context, a *served) error {
	select {
	case <-a.settled:
		return a.failed
	case <-b.ended:
	case <-ctx.Done():
		b.serving.fail(errLeft) // ends the process, and with it the requests for this image
		<-b.ended
	}
	return b.result(ctx, a)
}

// result returns the result of an image. It is errLeft if the process has failed and this image may not
// be why.
func (b *batch) result(ctx context.Context, a *served) error {
	failed, at := b.serving.failure(), b.serving.at()
	switch {
	case b.serving.isPut(a):
		return b.serving.settle(a)
	case ctx.Err() != nil:
		return interrupted(ctx)
	case b.err != nil && b.serving.isAlone():
		return b.err
	case b.serving.isAlone():
		return &Error{Reason: errNoManifest.Error(), Err: errNoManifest}
	case at == a && failed != nil && !errors.Is(failed, errLeft):
		return failed
	case at == a && (errors.Is(b.err, child.ErrStalled) || errors.Is(b.err, errTimeout)):
		return b.err
	}
	return errLeft
}

// indexOf returns an index of the images.
func indexOf(images []*served) []byte {
	type entry struct {
		MediaType string           `json:"mediaType"`
		Digest    reference.Digest `json:"digest"`
		Size      int              `json:"size"`
	}
	var entries []entry
	for _, a := range images {
		entries = append(entries, entry{a.Manifest.MediaType, a.Manifest.Digest, len(a.Manifest.Raw)})
	}
	text, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": types.OCIImageIndex, "manifests": entries}) // of these types, it cannot fail
	return text
}

// together is the name under which skopeo asks for the images that it is to copy.
const together = "together"

func (i *serving) isOpen() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return !i.complete
}

// list returns what the process copies: one image, or an index of several. No other image can be added
// afterwards.
func (i *serving) list() (kind string, content []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.complete = true
	switch len(i.images) {
	case 0:
		return "", nil
	case 1:
		i.current = i.images[0]
		return i.current.Manifest.MediaType, i.current.Manifest.Raw
	}
	return string(types.OCIImageIndex), indexOf(i.images)
}

// add adds an image. The error is errLeft if skopeo has asked for the list, or if the image is in it
// already; otherwise it wraps registry.ErrBadManifest: the manifest is not that of an image.
func (i *serving) add(ctx context.Context, image Image) (*served, error) {
	blobs, err := image.Manifest.Blobs()
	if err != nil {
		return nil, &registry.Error{Op: registry.OpGet, Repository: image.Source, Reference: image.Manifest.Digest, Err: err}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.complete || slices.ContainsFunc(i.images, func(a *served) bool { return a.Manifest.Digest == image.Manifest.Digest }) {
		return nil, errLeft
	}
	a := &served{Image: image, settled: make(chan struct{})}
	a.ctx, a.end = context.WithCancel(ctx)
	i.images = append(i.images, a)
	var added []registry.Descriptor
	for _, blob := range blobs {
		at := a.at(blob.Digest.String())
		if _, known := i.blobs[at]; !known {
			i.blobs[at] = blob
			added = append(added, blob)
		}
	}
	i.lookAhead(a, added)
	return a, nil
}

// listed returns the blob with a digest for the image that is being copied.
func (i *serving) listed(digest string) (listed, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current == nil {
		return listed{}, false
	}
	blob, ok := i.blobs[i.current.at(digest)]
	return listed{blob, i.current}, ok
}

func (i *serving) isEmpty() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.images) == 0
}

// image returns the image with a digest; nil if it is not served.
func (i *serving) image(digest string) *served {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, a := range i.images {
		if a.Manifest.Digest.String() == digest {
			return a
		}
	}
	return nil
}

// beginImage notes that the process copies an image from now on. It returns false if the process has not
// put the image before it: then no request would show for which of the two it is.
func (i *serving) beginImage(a *served) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current != nil && i.current != a && !i.current.put {
		return false
	}
	i.current, i.complete = a, true
	return true
}

// name answers what the process copies.
func (i *serving) name(w http.ResponseWriter) {
	kind, content := i.list()
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(content)
}

// confirmAll answers that the process may end. It has put each image if there are several.
func (i *serving) confirmAll(w http.ResponseWriter, request *http.Request) {
	if i.isAlone() {
		i.confirm(w, request, i.at())
		return
	}
	w.WriteHeader(http.StatusCreated)
}
