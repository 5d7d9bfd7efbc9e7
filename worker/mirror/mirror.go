// Package mirror copies one digest from a source repository to a destination repository:
// manifests by digest, indexes byte for byte, tags last. An Engine may copy the images.
// What is about images (attestations, signatures, SBOMs) is small, and there is much of it:
// a process for each would cost more than the copy.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/flight"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/transfer"
)

var (
	// ErrTooDeep is returned for indexes that are nested more than 8 deep.
	ErrTooDeep = errors.New("indexes are nested too deeply")

	// ErrVanished is returned if the destination does not have, or not yet, what it has
	// accepted: a replica lags, or the content was deleted.
	ErrVanished = errors.New("the destination does not have what was just put there")

	// ErrReferrers wraps the errors for which an image's signatures, SBOMs and
	// attestations are not mirrored with it.
	ErrReferrers = errors.New("mirroring what refers to it")
)

const (
	// maxDepth is far beyond what tools build (BuildKit: 1), and ends a hostile nesting.
	maxDepth = 8

	// maxManifests is how many manifests are copied for one image at most, its referrers
	// included. Tools make some hundreds; each index may list thousands.
	maxManifests = 10_000
)

// Copied is the result of a copy.
type Copied struct {
	// Digest is the one to be tagged: the source's own, or that of an index of some of its
	// platforms.
	Digest reference.Digest
	New    bool  // the destination did not have it under this digest
	Pulls  int   // manifests pulled from the source
	Bytes  int64 // size of the content copied, according to its manifests
}

// Mirror copies images. It is safe for concurrent use. New and NewComparing make one.
type Mirror struct {
	Parts

	destination *registry.Client // sends the requests to the destination

	// flights makes one copy of what several tags or indexes need at the same time.
	flights flight.Group[manifestAt]
	// announcing is locked while a list of referrers is replaced, by the first byte of
	// the subject's digest.
	announcing [256]sync.Mutex

	blobs    *transfer.Blobs // nil if the mirror only compares
	seen     *recent
	verified *read
}

// manifestAt is a manifest in a repository.
type manifestAt struct {
	repository reference.Repository
	digest     reference.Digest
}

// CopyImage copies everything wanted below the manifest to the destination, by digest. The
// manifest itself may be left for Tag, which puts it under its first tag at once. What the
// destination repository has is not pulled, unless Free says that pulls are not limited.
// The pulls are also counted if there is an error, which is platform.ErrNoPlatform if
// nothing of the image is wanted.
func (m *Mirror) CopyImage(ctx context.Context, source, destination reference.Repository, d registry.Descriptor, wanted platform.Wanted) (Copied, error) {
	c := m.copying(source, destination)
	c.unasked.Store(m.Free(source) && (m.seen.isBare(destination) || m.Engine == nil && m.seen.lacks(manifestAt{destination, d.Digest})))
	if wanted.All() {
		err := c.manifest(ctx, item{Descriptor: d})
		return c.copied(d.Digest), err
	}
	digest, err := c.subset(ctx, d, wanted)
	return c.copied(digest), err
}

// CopyReferrers copies what refers to a mirrored image, or to the images of a mirrored
// index, recursively and by digest. copied is the digest that the image has at the
// destination. What refers to the source's own index has no place beside an index of some
// of its platforms. Before the first of them that the destination lacks is copied, allow is
// called; its error is returned. If nil, they are copied.
func (m *Mirror) CopyReferrers(ctx context.Context, source, destination reference.Repository, digest, copied reference.Digest, allow func(context.Context) error) (Copied, error) {
	c := m.copying(source, destination)
	if allow != nil {
		c.allow = func(ctx context.Context) error {
			c.asked.Do(func() { c.refused = allow(ctx) })
			return c.refused
		}
	}
	err := c.referrers(ctx, digest, copied)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrReferrers, err)
	}
	return c.copied(copied), err
}

// copying is one CopyImage or CopyReferrers under way.
type copying struct {
	mirror              *Mirror
	source, destination reference.Repository
	pulls, bytes        atomic.Int64
	manifests           atomic.Int64
	isNew               atomic.Bool // Copied.New
	unasked             atomic.Bool // pull, without asking the destination first

	allow   func(context.Context) error // before a manifest is copied; nil: it is allowed
	asked   sync.Once                   // for refused
	refused error
}

func (m *Mirror) copying(source, destination reference.Repository) *copying {
	return &copying{mirror: m, source: source, destination: destination}
}

func (c *copying) copied(digest reference.Digest) Copied {
	return Copied{Digest: digest, New: c.isNew.Load(), Pulls: int(c.pulls.Load()), Bytes: c.bytes.Load()}
}

// at is a manifest at the destination.
func (c *copying) at(digest reference.Digest) manifestAt { return manifestAt{c.destination, digest} }

// guarded runs the copy of an image when the registries allow it.
func (c *copying) guarded(ctx context.Context, digest reference.Digest, run func(context.Context) error) error {
	return c.mirror.Guard(ctx, c.source, c.destination, digest, run)
}

// bad returns the error for a manifest of the source that no try will copy.
func (c *copying) bad(digest reference.Digest, err error) error {
	if !errors.Is(err, registry.ErrBadManifest) {
		err = fmt.Errorf("%w: %w", registry.ErrBadManifest, err)
	}
	return &registry.Error{Op: registry.OpGet, Repository: c.source, Reference: digest, Err: err}
}
