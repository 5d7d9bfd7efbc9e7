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

// requests is how many requests to a repository are under way at once.
const requests = 16

// contents are the tags and manifests of a destination repository.
type contents struct {
	client     *registry.Client
	repository reference.Repository
	tags       map[reference.Tag]reference.Digest
	empty      map[reference.Tag]bool // tags without a manifest: true if listed, false if recorded only

	mu        sync.Mutex
	manifests map[reference.Digest]registry.Manifest
	referrers map[reference.Digest][]reference.Digest
}

// read reads the listed and the recorded tags of a repository with all manifests below them, and
// the manifests that tags had earlier, if they still exist. It sends GET requests only.
//
// It fails if it cannot read a listed tag, or if the registry does not list a recorded tag that
// exists: an unknown tag might need a manifest that is to be deleted. But a listed tag that is
// leaving may lack a manifest: distribution lists such tags after an interrupted deletion.
func read(ctx context.Context, client *registry.Client, repository reference.Repository, recorded []reference.Tag, earlier []reference.Digest, leaving func(reference.Tag) bool) (*contents, error) {
	c := &contents{
		client: client, repository: repository, tags: map[reference.Tag]reference.Digest{}, empty: map[reference.Tag]bool{},
		manifests: map[reference.Digest]registry.Manifest{}, referrers: map[reference.Digest][]reference.Digest{},
	}
	listed := map[reference.Tag]bool{}
	for name, err := range client.Tags(ctx, repository) {
		if errors.Is(err, registry.ErrNotFound) && len(listed) == 0 {
			break // the repository does not exist, or has no tags
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

// errPartial is returned for an incomplete listing. It may lack further tags, which are not
// recorded and need a manifest that is to be deleted.
var errPartial = errors.New("the registry does not list a tag that it has")

// mayHide reports whether a complete listing may leave out a tag: distribution leaves out the
// tag "index", and other registries leave out companions.
func mayHide(tag reference.Tag) bool {
	_, companion := selection.Companion(tag.String())
	return companion || tag.String() == "index"
}

// add reads a manifest, unless it is known or does not exist.
func (c *contents) add(ctx context.Context, digest reference.Digest) error {
	c.mu.Lock()
	_, known := c.manifests[digest]
	c.mu.Unlock()
	if known {
		return nil
	}
	m, err := c.client.Get(ctx, c.repository, digest)
	if errors.Is(err, registry.ErrNotFound) {
		return nil // a mirrored index may lack manifests of other platforms
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

// reach adds a manifest and those below it to a set, as far as they exist.
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

// levels returns how many levels of manifests are below a manifest.
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

// listReferrers lists and reads the referrers of a digest. It finds none if the registry does not
// have the referrers API; there, a fallback tag lists them.
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

// needed returns the manifests that must stay: the manifests of the tags that do not go, and
// earlier manifests of tags.
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

// settle removes the tags from going that cannot be deleted, and calls left with each and the
// reason: the image to which a companion belongs stays, or a tag that stays needs the manifest.
// If the registry deletes a tag alone, without its manifest, the second reason does not apply.
// settle returns the manifests that are needed then.
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
				left(tag, "its digest is needed by "+c.needs(c.tags[tag], going))
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

// needs names a tag that stays and needs a manifest.
func (c *contents) needs(digest reference.Digest, going map[reference.Tag]bool) string {
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
		return // the sizes of its blobs are unknown
	}
	for _, blob := range listed {
		sizes[blob.Digest] = max(blob.Size, 0)
	}
}
