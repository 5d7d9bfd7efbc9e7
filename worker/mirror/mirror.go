// Package mirror brings one digest from a source repository to a destination
// repository: manifests by digest, indexes put as they are, tags last.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/singleflight"

	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// ErrTooDeep is returned for an index inside an index inside an index, and so on.
var ErrTooDeep = errors.New("indexes are nested too deeply")

// maxDepth is far beyond what tools build (BuildKit: 1), and ends a hostile nesting.
const maxDepth = 8

// Cost is what a copy took.
type Cost struct {
	Pulls int   // manifests pulled from the source
	Bytes int64 // size of the content copied, as its manifests tell it
}

// Mirror copies with skopeo, and does the rest itself.
type Mirror struct {
	Registry *registry.Client
	Skopeo   *skopeo.Runner
	// Pulled is told of every pull, just before it is made.
	Pulled func(source string)

	// flights makes one copy of what several tags or indexes need at once.
	flights singleflight.Group
}

// Tagged returns the digest that the destination has under the tag, or nothing.
func (m *Mirror) Tagged(ctx context.Context, destination, tag string) (string, error) {
	d, err := m.Registry.Head(ctx, destination, tag)
	if errors.Is(err, registry.ErrNotFound) {
		return "", nil
	}
	return d.Digest, err
}

// Tag puts the tag on a manifest that the destination repository holds. Nothing is
// asked of the source.
func (m *Mirror) Tag(ctx context.Context, destination, digest, tag string) error {
	manifest, err := m.Registry.Get(ctx, destination, digest)
	if err != nil {
		return fmt.Errorf("reading what is to be tagged %s: %w", tag, err)
	}
	return m.Registry.Put(ctx, destination, tag, manifest)
}

// Copy brings the manifest to the destination, with everything below it, under its
// digest. What the destination repository has is not asked of the source: then the
// cost is nothing. The cost is also right where there is an error.
func (m *Mirror) Copy(ctx context.Context, source, destination string, d registry.Descriptor) (Cost, error) {
	c := &copying{Mirror: m, source: source, destination: destination}
	err := c.manifest(ctx, d, 0)
	return Cost{Pulls: int(c.pulls.Load()), Bytes: c.bytes.Load()}, err
}

// copying is one Copy under way.
type copying struct {
	*Mirror
	source, destination string
	pulls, bytes        atomic.Int64
}

// manifest makes sure that the destination has the manifest.
func (c *copying) manifest(ctx context.Context, d registry.Descriptor, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s@%s: %w", c.source, d.Digest, ErrTooDeep)
	}
	_, err, _ := c.flights.Do(c.destination+"@"+d.Digest, func() (any, error) {
		_, err := c.Registry.Head(ctx, c.destination, d.Digest)
		if errors.Is(err, registry.ErrNotFound) {
			err = c.fetch(ctx, d, depth)
		}
		return nil, err
	})
	return err
}

func (c *copying) fetch(ctx context.Context, d registry.Descriptor, depth int) error {
	if d.MediaType == "" {
		// A digest that the list pins comes without one.
		head, err := c.Registry.Head(ctx, c.source, d.Digest)
		if err != nil {
			return err
		}
		d.MediaType = head.MediaType
	}
	if types.MediaType(d.MediaType).IsIndex() {
		return c.index(ctx, d, depth)
	}
	c.pull()
	if err := c.Skopeo.Copy(ctx, c.source, d.Digest, c.destination); err != nil {
		return err
	}
	copied, err := c.Registry.Get(ctx, c.destination, d.Digest)
	if err != nil {
		return fmt.Errorf("reading what was copied: %w", err)
	}
	c.bytes.Add(copied.ContentSize())
	return nil
}

// index copies what the index names and then puts it, byte by byte.
func (c *copying) index(ctx context.Context, d registry.Descriptor, depth int) error {
	c.pull()
	index, err := c.Registry.Get(ctx, c.source, d.Digest)
	if err != nil {
		return err
	}
	children, err := index.Children()
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := c.manifest(ctx, child, depth+1); err != nil {
			return err
		}
	}
	return c.Registry.Put(ctx, c.destination, d.Digest, index)
}

func (c *copying) pull() {
	c.pulls.Add(1)
	if c.Pulled != nil {
		c.Pulled(c.source)
	}
}
