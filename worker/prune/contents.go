package prune

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/registry"
)

// requests bounds the requests to a repository that are under way at once.
const requests = 16

// contents is what a destination repository has.
type contents struct {
	client     *registry.Client
	repository reference.Repository
	tags       map[reference.Tag]reference.Digest
	empty      map[reference.Tag]bool // tags that are listed without a manifest

	mu        sync.Mutex
	manifests map[reference.Digest]registry.Manifest
	referrers map[reference.Digest][]reference.Digest
}

// read reads all tags of a repository with all manifests below them: those that are listed, and
// those that are recorded and there. It reads what tags had earlier, as far as that is there. It
// sends GET requests only. Each tag that is listed must be read, and each that is recorded and
// there must be listed: a tag that is not known might need what is to be deleted. One that is
// leaving may have no manifest: after a deletion that was cut off, distribution lists such tags.
func read(ctx context.Context, client *registry.Client, repository reference.Repository, recorded []reference.Tag, earlier []reference.Digest, leaving func(reference.Tag) bool) (*contents, error) {
	c := &contents{
		client: client, repository: repository, tags: map[reference.Tag]reference.Digest{}, empty: map[reference.Tag]bool{},
		manifests: map[reference.Digest]registry.Manifest{}, referrers: map[reference.Digest][]reference.Digest{},
	}
	listed := map[reference.Tag]bool{}
	for name, err := range client.Tags(ctx, repository) {
		if errors.Is(err, registry.ErrNotFound) && len(listed) == 0 {
			break // the repository is gone, or has no tags
		}
		if err != nil {
			return nil, err
		}
		listed[name] = true
	}
	for _, name := range recorded {
		if !listed[name] {
			listed[name] = false
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(requests)
	for name, mustBe := range listed {
		group.Go(func() error {
			m, err := client.Get(ctx, repository, name)
			if errors.Is(err, registry.ErrNotFound) && (!mustBe || leaving(name)) {
				c.mu.Lock()
				c.empty[name] = mustBe
				c.mu.Unlock()
				return nil
			}
			if err != nil {
				return err
			}
			if !mustBe && !mayHide(name) {
				return fmt.Errorf("%w: %s:%s", errPartial, repository, name)
			}
			c.mu.Lock()
			c.tags[name] = m.Digest
			c.manifests[m.Digest] = m
			c.mu.Unlock()
			return c.below(ctx, m)
		})
	}
	for _, digest := range earlier {
		group.Go(func() error { return c.add(ctx, digest) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return c, nil
}

// errPartial is the reason for a listing that lacks a tag that is there. It may lack others, which
// are not recorded and need what is to be deleted.
var errPartial = errors.New("the registry does not list a tag that it has")

// mayHide reports whether a registry that lists everything else may leave out a tag:
// distribution does so with one named index, and others with what belongs to an image.
func mayHide(tag reference.Tag) bool {
	_, companion := selection.Companion(tag.String())
	return companion || tag.String() == "index"
}

// add reads a manifest, unless it is known or not there.
func (c *contents) add(ctx context.Context, digest reference.Digest) error {
	c.mu.Lock()
	_, known := c.manifests[digest]
	c.mu.Unlock()
	if known {
		return nil
	}
	m, err := c.client.Get(ctx, c.repository, digest)
	if errors.Is(err, registry.ErrNotFound) {
		return nil // an index may be mirrored for some platforms only
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.manifests[digest] = m
	c.mu.Unlock()
	return c.below(ctx, m)
}

// below reads the manifests below an index.
func (c *contents) below(ctx context.Context, m registry.Manifest) error {
	children, err := m.Children()
	if err != nil {
		return fmt.Errorf("%s@%s: %w", c.repository, m.Digest, err)
	}
	for _, child := range children {
		if child.Kind() == registry.IsBlob {
			continue
		}
		if err := c.add(ctx, child.Digest); err != nil {
			return err
		}
	}
	return nil
}

// reach adds a manifest that is there, and those below it, to a set.
func (c *contents) reach(digest reference.Digest, reached map[reference.Digest]bool) {
	m, there := c.manifests[digest]
	if !there || reached[digest] {
		return
	}
	reached[digest] = true
	children, _ := m.Children() // read has parsed it
	for _, child := range children {
		c.reach(child.Digest, reached)
	}
}

// levels returns how many levels of manifests are below one.
func (c *contents) levels(digest reference.Digest) (n int) {
	m, there := c.manifests[digest]
	if !there {
		return 0
	}
	children, _ := m.Children() // read has parsed it
	for _, child := range children {
		n = max(n, 1+c.levels(child.Digest))
	}
	return n
}

// listReferrers lists the manifests that refer to a digest, and reads them. A registry without
// the API has a fallback tag instead.
func (c *contents) listReferrers(ctx context.Context, subject reference.Digest) error {
	if _, known := c.referrers[subject]; known {
		return nil
	}
	c.referrers[subject] = nil
	for entry, err := range c.client.Referrers(ctx, c.repository, subject) {
		if errors.Is(err, registry.ErrNoReferrersAPI) || errors.Is(err, registry.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.add(ctx, entry.Digest); err != nil {
			return err
		}
		c.referrers[subject] = append(c.referrers[subject], entry.Digest)
	}
	return nil
}

// needed returns everything that stays needs: all tags but those that go, and what tags had
// earlier.
func (c *contents) needed(going map[reference.Tag]bool, earlier []reference.Digest) map[reference.Digest]bool {
	reached := map[reference.Digest]bool{}
	for tag, digest := range c.tags {
		if !going[tag] {
			c.reach(digest, reached)
		}
	}
	for _, digest := range earlier {
		c.reach(digest, reached)
	}
	return reached
}

// settle takes those tags out of going that cannot be deleted, since a tag that stays needs
// their manifest, unless the registry deletes a tag alone, or the image that they belong to. It
// calls left for each, and returns what is needed.
func (c *contents) settle(going map[reference.Tag]bool, earlier []reference.Digest, alone bool, left func(reference.Tag, string)) map[reference.Digest]bool {
	for {
		needed := c.needed(going, earlier)
		settled := true
		for tag := range going {
			subject, companion := selection.Companion(tag.String())
			switch {
			case companion && needed[subject]:
				left(tag, "the image that it belongs to stays")
			case needed[c.tags[tag]] && !alone:
				left(tag, "its digest is needed by "+c.who(c.tags[tag], going))
			default:
				continue
			}
			delete(going, tag)
			settled = false
		}
		if settled {
			return needed
		}
	}
}

// who names a tag that stays and needs a manifest.
func (c *contents) who(digest reference.Digest, going map[reference.Tag]bool) string {
	for _, tag := range slices.SortedFunc(maps.Keys(c.tags), func(a, b reference.Tag) int { return strings.Compare(a.String(), b.String()) }) {
		if going[tag] {
			continue
		}
		reached := map[reference.Digest]bool{}
		if c.reach(c.tags[tag], reached); reached[digest] {
			return "the tag " + tag.String()
		}
	}
	return "an image that a tag had earlier"
}

// blobs adds the sizes of a manifest's blobs to a map.
func (c *contents) blobs(digest reference.Digest, sizes map[reference.Digest]int64) {
	m := c.manifests[digest]
	sizes[digest] = int64(len(m.Raw))
	listed, err := m.Blobs()
	if err != nil {
		return // its size is not known
	}
	for _, blob := range listed {
		sizes[blob.Digest] = max(blob.Size, 0)
	}
}
