// Package mirror copies one digest from a source repository to a destination repository:
// manifests by digest, indexes byte for byte, tags last. An Engine may copy the images.
// Attestations, signatures and SBOMs are small and many, so the package copies them itself: a
// process for each would cost more than the copy.
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

	// ErrVanished is returned if the destination lacks content that it has accepted: a replica
	// lags behind, or the content was deleted.
	ErrVanished = errors.New("the destination lacks content that was just put there")

	// ErrReferrers wraps the errors of CopyReferrers.
	ErrReferrers = errors.New("mirroring the referrers")
)

const (
	// maxDepth is how deep indexes may be nested. BuildKit nests 1 deep; hostile indexes could be
	// nested without end.
	maxDepth = 8

	// maxManifests is how many manifests one image may have, including its referrers. Tools make
	// some hundreds; a hostile index may list thousands of indexes.
	maxManifests = 10_000
)

// Copied is the result of a copy.
type Copied struct {
	// Digest is the digest to tag: the source's, or that of an index with some of its platforms.
	Digest reference.Digest
	New    bool  // the destination did not have this digest
	Pulls  int   // number of manifests pulled from the source
	Bytes  int64 // size of the copied content, as stated in its manifests
}

// Mirror copies images. It is safe for concurrent use. New and NewComparing make one.
type Mirror struct {
	Parts

	destination *registry.Client // sends the requests to the destination

	// flights copies a manifest once that several tags or indexes need at the same time.
	flights flight.Group[manifestAt]
	// announcing are the locks for replacing a list of referrers, by the first byte of the
	// subject's digest.
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

// CopyImage copies the wanted platforms of an image to the destination, by digest. It may leave the
// manifest itself for Tag, which then puts it under its first tag. It does not pull manifests that
// the destination repository has, unless Free returns true. The error is platform.ErrNoPlatform if
// the image has no wanted platform. With an error, Copied counts the pulls so far.
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

// CopyReferrers copies the referrers of a mirrored image and of the images in a mirrored index,
// recursively and by digest. copied is the digest that the image has at the destination. If it is
// that of an index with some of the source's platforms, the referrers of the source's own index are
// not copied. CopyReferrers calls allow, which is optional, before it copies the first referrer that
// the destination lacks, and returns its error.
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
	unasked             atomic.Bool // pull without asking the destination first

	allow   func(context.Context) error // called before a manifest is copied; optional
	asked   sync.Once                   // for refused
	refused error                       // of allow
}

func (m *Mirror) copying(source, destination reference.Repository) *copying {
	return &copying{mirror: m, source: source, destination: destination}
}

func (c *copying) copied(digest reference.Digest) Copied {
	return Copied{Digest: digest, New: c.isNew.Load(), Pulls: int(c.pulls.Load()), Bytes: c.bytes.Load()}
}

// at returns the key of a manifest at the destination.
func (c *copying) at(digest reference.Digest) manifestAt { return manifestAt{c.destination, digest} }

// guarded runs the copy of an image when the registries' limits allow it.
func (c *copying) guarded(ctx context.Context, digest reference.Digest, run func(context.Context) error) error {
	return c.mirror.Guard(ctx, c.source, c.destination, digest, run)
}

// bad returns the error for a manifest of the source that cannot be copied, however often retried.
func (c *copying) bad(digest reference.Digest, err error) error {
	if !errors.Is(err, registry.ErrBadManifest) {
		err = fmt.Errorf("%w: %w", registry.ErrBadManifest, err)
	}
	return &registry.Error{Op: registry.OpGet, Repository: c.source, Reference: digest, Err: err}
}
