// Package mirror brings one digest from a source repository to a destination
// repository: manifests by digest, indexes put as they are, tags last. An Engine may copy
// images; what is about images (attestations, signatures, SBOMs) is small and many, and a
// process for each would cost more than the copy.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/flight"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/transfer"
)

// ErrTooDeep is returned for an index inside an index inside an index, and so on.
var ErrTooDeep = errors.New("indexes are nested too deeply")

// ErrVanished is returned where the destination does not have, or not yet, what it
// has just accepted: a replica that lags, or a garbage collection.
var ErrVanished = errors.New("the destination does not have what was just put there")

// maxDepth is far beyond what tools build (BuildKit: 1), and ends a hostile nesting.
const maxDepth = 8

// maxManifests is how many manifests are copied for one image at most, what refers to it
// included. Tools make some hundreds; every index may have thousands.
const maxManifests = 10_000

// Copied is what a copy brought and took.
type Copied struct {
	// Digest is what is to be tagged: the source's own, or that of an index of just
	// some platforms.
	Digest reference.Digest
	New    bool  // the destination did not have it under this digest
	Pulls  int   // manifests pulled from the source
	Bytes  int64 // size of the content copied, as its manifests tell it
}

// Mirror copies.
type Mirror struct {
	Registry *registry.Client
	// Destination asks the destination; nil is Registry.Writing().
	Destination *registry.Client
	// Engine copies images; nil: this process does, as it copies everything else.
	Engine Engine
	// Verifier holds images to the signature policy that no engine copies; nil: there is
	// none.
	Verifier Verifier
	// Guard runs a copy of one manifest when the registries allow it; nil is at once.
	Guard func(ctx context.Context, source, destination reference.Repository, digest reference.Digest, run func(context.Context) error) error
	// Free reports whether a source does not limit pulls. If so, an image whose tag the
	// destination was just seen without is pulled, and the destination is not asked first
	// whether it has parts of it. If nil, all sources limit pulls.
	Free func(source reference.Repository) bool
	// Indexes keeps indexes of which not all could be copied; nil is nobody.
	Indexes Indexes

	// flights makes one copy of what several tags or indexes need at once.
	flights flight.Group[manifestAt]
	// announcing is held while an index of referrers is replaced, by the first byte of
	// the subject.
	announcing [256]sync.Mutex

	once   sync.Once
	blobs  *transfer.Blobs
	recent *recent
}

// manifestAt is a manifest in a repository.
type manifestAt struct {
	repository reference.Repository
	digest     reference.Digest
}

// Indexes keeps indexes until the rest of their manifests can be copied, so that they
// are not pulled again. Losing one costs a pull.
type Indexes interface {
	Index(ctx context.Context, digest reference.Digest) (registry.Manifest, bool)
	KeepIndex(ctx context.Context, index registry.Manifest)
}

// to is the client for the destination.
func (m *Mirror) to() *registry.Client {
	if m.Destination == nil {
		return m.Registry.Writing()
	}
	return m.Destination
}

func (m *Mirror) start() {
	m.once.Do(func() {
		m.recent = newRecent()
		if m.Registry != nil { // else it only compares
			m.blobs = transfer.New(m.Registry)
		}
	})
}

// moving returns what moves blobs.
func (m *Mirror) moving() *transfer.Blobs { m.start(); return m.blobs }

// lately returns what was just put and seen.
func (m *Mirror) lately() *recent { m.start(); return m.recent }

// Tagged returns the digest that the destination has under the tag, zero if it has none.
// If HEAD denied what is there, it would be copied and put again each time.
func (m *Mirror) Tagged(ctx context.Context, destination reference.Repository, tag reference.Tag) (reference.Digest, error) {
	d, err := m.to().Look(ctx, destination, tag)
	if registry.Absent(err) {
		return reference.Digest{}, nil
	}
	return d.Digest, err
}

// Holds reports whether the destination has the digest, under whatever tag or none, and
// what it says of it.
func (m *Mirror) Holds(ctx context.Context, destination reference.Repository, digest reference.Digest) (registry.Descriptor, bool, error) {
	d, err := m.to().Head(ctx, destination, digest)
	if registry.Absent(err) {
		return registry.Descriptor{}, false, nil
	}
	return d, err == nil, err
}

// Empty reports whether the destination repository has no tags.
func (m *Mirror) Empty(ctx context.Context, destination reference.Repository) (bool, error) {
	for _, err := range m.to().Tags(ctx, destination) {
		switch {
		case registry.Absent(err):
			m.lately().noTags(destination)
			return true, nil
		case errors.Is(err, reference.ErrInvalidTag): // it has something
			return false, nil
		}
		return false, err
	}
	m.lately().noTags(destination)
	return true, nil
}

// copied returns a manifest that was copied to the destination, or is about to be put there
// under its first tag. If the destination does not have it, that says nothing about the
// source's digest, so the error does not wrap the registry's.
func (m *Mirror) copied(ctx context.Context, destination reference.Repository, digest reference.Digest) (registry.Manifest, error) {
	if known, ok := m.lately().get(manifestAt{destination, digest}); ok {
		return known.Manifest, nil
	}
	manifest, err := m.to().Get(ctx, destination, digest)
	if errors.Is(err, registry.ErrNotFound) {
		return manifest, fmt.Errorf("%w: %v", ErrVanished, err)
	}
	return manifest, err
}

// Copy brings everything wanted below the manifest to the destination, by digest. The
// manifest itself may be left for Tag, which puts it under its first tag at once. What the
// destination repository has is not pulled, unless Free says that pulls are not limited.
// The pulls are also counted if there is an error, which is platform.ErrNoPlatform if
// nothing of the image is wanted.
func (m *Mirror) Copy(ctx context.Context, source, destination reference.Repository, d registry.Descriptor, wanted platform.Wanted) (Copied, error) {
	c := &copying{Mirror: m, source: source, destination: destination}
	c.unseen.Store(m.Free != nil && m.Free(source) && m.lately().lacks(manifestAt{destination, d.Digest}))
	copied := d.Digest
	var err error
	if wanted.All() {
		err = c.manifest(ctx, wanting{Descriptor: d})
	} else {
		copied, err = c.subset(ctx, d, wanted)
	}
	return Copied{Digest: copied, New: c.isNew.Load(), Pulls: int(c.pulls.Load()), Bytes: c.bytes.Load()}, err
}

// copying is one Copy under way.
type copying struct {
	*Mirror
	source, destination reference.Repository
	pulls, bytes        atomic.Int64
	manifests           atomic.Int64
	isNew               atomic.Bool // Copied.New
	unseen              atomic.Bool // pull, without asking the destination first
}

// wanting is a manifest that the destination is to have.
type wanting struct {
	registry.Descriptor
	about bool              // it is about another one
	depth int               // of indexes around it
	read  registry.Manifest // without content where it was not pulled yet
}

// isRoot reports whether the manifest is the one that is to be tagged.
func (w wanting) isRoot() bool { return w.depth == 0 && !w.about }

// manifest makes sure that the destination has the manifest.
func (c *copying) manifest(ctx context.Context, w wanting) error {
	if w.depth > maxDepth {
		return c.bad(w.Digest, ErrTooDeep)
	}
	if c.manifests.Add(1) > maxManifests {
		return c.bad(w.Digest, fmt.Errorf("%w manifests: an image has no more than %d", registry.ErrTooMany, maxManifests))
	}
	at := manifestAt{c.destination, w.Digest}
	return c.flights.Do(ctx, at, func() error {
		known, ok := c.lately().get(at)
		if ok && (c.Engine == nil || w.about || known.IsIndex()) { // else it is the engine's
			w.read = known.Manifest
		}
		if !known.pending && (ok || !c.unseen.Load()) {
			if _, err := c.to().Head(ctx, c.destination, w.Digest); !registry.Absent(err) {
				return err
			}
		}
		if w.isRoot() {
			c.isNew.Store(true)
		}
		return c.fetch(ctx, w)
	})
}

func (c *copying) fetch(ctx context.Context, w wanting) error {
	manifest, err := c.read(ctx, w)
	switch {
	case err != nil:
		return err
	case manifest.Raw == nil, c.Engine != nil && types.MediaType(manifest.MediaType).IsSchema1():
		return c.byEngine(ctx, w.Descriptor)
	case manifest.IsIndex():
	case c.Engine != nil || w.about:
		return c.image(ctx, w, manifest)
	default:
		if err := c.verify(ctx, manifest); err != nil {
			return err
		}
		return c.guarded(ctx, manifest.Digest, func(ctx context.Context) error { return c.image(ctx, w, manifest) })
	}
	entries, err := manifest.Entries()
	if err != nil {
		return c.bad(manifest.Digest, err)
	}
	return c.whole(ctx, manifest, manifest, entries, w)
}

// read pulls the manifest, unless the engine is to: it does that for images.
func (c *copying) read(ctx context.Context, w wanting) (registry.Manifest, error) {
	if w.read.Raw != nil {
		return w.read, nil
	}
	if index, kept := c.kept(ctx, w.Digest); kept {
		return index, nil
	}
	if c.Engine != nil && !w.about {
		if image, err := c.isImage(ctx, &w.Descriptor); err != nil || image {
			return registry.Manifest{}, err
		}
	}
	return c.pull(ctx, w.Digest)
}

// kept returns the index where an earlier copy has kept it.
func (c *copying) kept(ctx context.Context, digest reference.Digest) (registry.Manifest, bool) {
	if c.Indexes == nil {
		return registry.Manifest{}, false
	}
	index, kept := c.Indexes.Index(ctx, digest)
	if kept {
		c.unseen.Store(false) // some of it is there
	}
	return index, kept
}

func (c *copying) pull(ctx context.Context, digest reference.Digest) (registry.Manifest, error) {
	manifest, err := c.Registry.Get(ctx, c.source, digest)
	if asked := (*registry.Error)(nil); err == nil || errors.As(err, &asked) && asked.Status != 0 {
		c.pulls.Add(1)
	}
	return manifest, err
}

// isImage reports whether a manifest is known to be that of an image, and asks the source
// for its type where nobody has said.
func (c *copying) isImage(ctx context.Context, d *registry.Descriptor) (bool, error) {
	if d.MediaType == "" {
		// A listing, or a digest that the list pins, comes without one.
		head, err := c.Registry.Find(ctx, c.source, d.Digest)
		if head.Pulled {
			c.pulls.Add(1)
		}
		if err != nil {
			return false, err
		}
		d.MediaType = head.MediaType
	}
	kind := types.MediaType(d.MediaType)
	return kind.IsImage() || kind.IsSchema1(), nil
}

// image copies a manifest that was pulled, with what it refers to.
func (c *copying) image(ctx context.Context, w wanting, manifest registry.Manifest) error {
	blobs, err := manifest.Blobs()
	if err != nil {
		return c.bad(manifest.Digest, err)
	}
	if err := c.moving().Copy(ctx, c.source, c.destination, blobs...); err != nil {
		return err
	}
	c.bytes.Add(manifest.ContentSize())
	return c.put(ctx, manifest, w.isRoot())
}

// put puts a manifest by its digest, or leaves it for Tag.
func (c *copying) put(ctx context.Context, manifest registry.Manifest, later bool) error {
	at := manifestAt{c.destination, manifest.Digest}
	// Under a tag, the registry chooses the algorithm of the digest.
	later = later && manifest.Digest.Algorithm() == reference.DigestOf(nil).Algorithm()
	if later && c.lately().keep(at, manifest, true) {
		return nil
	}
	return c.putAs(ctx, at, manifest.Digest, manifest)
}

// putAs puts a manifest under its digest or a tag.
func (m *Mirror) putAs(ctx context.Context, at manifestAt, name reference.TagOrDigest, manifest registry.Manifest) error {
	if err := m.to().Put(ctx, at.repository, name, manifest); err != nil {
		return m.lost(at, manifest, err)
	}
	m.lately().keep(at, manifest, false)
	return nil
}

// settle puts a manifest by its digest that was left for Tag.
func (m *Mirror) settle(ctx context.Context, at manifestAt) error {
	if known, _ := m.lately().get(at); known.pending {
		return m.putAs(ctx, at, at.digest, known.Manifest)
	}
	return nil
}

// bad says that the source's manifest is one that no try will copy.
func (c *copying) bad(digest reference.Digest, err error) error {
	if !errors.Is(err, registry.ErrBadManifest) {
		err = fmt.Errorf("%w: %w", registry.ErrBadManifest, err)
	}
	return &registry.Error{Op: registry.OpGet, Repository: c.source, Reference: digest, Err: err}
}
