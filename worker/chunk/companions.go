package chunk

import (
	"context"
	"errors"
	"maps"
	"sync"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// companions finds the signatures, SBOMs and attestations that have tags of their own and
// belong to what has been mirrored. Those of the images that a selection chooses are known
// when it is resolved. What is below an image is only known when that is at the
// destination, where reading it costs no pull.
type companions struct {
	mu      sync.Mutex
	claims  []claim
	entries map[entry]message.Repository  // of companions, by those that bring them
	listed  map[entry]resolve.Companions  // by a selection
	sources map[reference.Repository]list // for entries that name their tags
	known   map[place]bool                // what is mirrored anyway
}

// claim is an image that is at the destination and may have companions.
type claim struct {
	repository message.Repository
	image      message.Image
	at         reference.Digest // that it has there
}

// list is the companions of a repository; nil where it does not list its tags.
type list struct {
	companions resolve.Companions
	err        error
}

// place is where a tag is mirrored to.
type place struct {
	source, destination reference.Repository
	tag                 reference.Tag
}

// claim notes the images of one digest.
func (c *companions) claim(r message.Repository, at reference.Digest, images ...message.Image) {
	if len(images) == 0 || !resolve.BringsCompanions(r) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.claims = append(c.claims, claim{r, images[0], at})
}

// note keeps what a listing has shown.
func (c *companions) note(r message.Repository, found resolve.Result) {
	c.expect(r, found.Images)
	if found.Companions == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listed == nil {
		c.listed = map[entry]resolve.Companions{}
	}
	c.listed[entryOf(r)] = found.Companions
}

// expect notes images that are mirrored, and returns those that were not expected yet.
func (c *companions) expect(r message.Repository, images []message.Image) (others []message.Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[place]bool{}
	}
	for _, image := range images {
		if at := (place{r.Source, r.Destination, destinationTag(image)}); !c.known[at] {
			c.known[at] = true
			others = append(others, image)
		}
	}
	return others
}

// entry is that of the companions which an entry brings.
func (c *companions) entry(r message.Repository) message.Repository {
	if resolve.AreCompanions(r) {
		r.Images, r.Found = nil, true
		return r
	}
	if c.entries == nil {
		c.entries = map[entry]message.Repository{}
	}
	key := entryOf(r)
	of, known := c.entries[key]
	if !known {
		of = resolve.OfCompanions(r)
		c.entries[key] = of
		if listed, known := c.listed[key]; known {
			c.listed[entryOf(of)] = listed
		}
	}
	return of
}

// list returns the companions that the source has, listed once; nil where it does not
// list its tags.
func (c *companions) list(r message.Repository, ask func() (resolve.Companions, error)) (resolve.Companions, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if listed, known := c.listed[entryOf(r)]; known {
		return listed, nil
	}
	l, known := c.sources[r.Source]
	if !known {
		l.companions, l.err = ask()
		if l.err != nil && outcome.Classify(l.err) == outcome.Final {
			l = list{}
		}
		if c.sources == nil {
			c.sources = map[reference.Repository]list{}
		}
		c.sources[r.Source] = l
	}
	return l.companions, l.err
}

// again lets the lists be asked for again that could not be had.
func (c *companions) again() {
	maps.DeleteFunc(c.sources, func(_ reference.Repository, l list) bool { return l.err != nil })
}

// accompany brings the companions of what a round has mirrored, and theirs.
func (t *task) accompany(ctx context.Context) error {
	t.companions.again()
	for {
		start := t.now()
		found, err := t.found(ctx)
		if err != nil || len(found) == 0 {
			return err
		}
		for i, r := range found {
			t.note(func(p *progress) { p.images.Total += len(r.Images) })
			if found[i].Images, err = t.dated(ctx, r); err != nil {
				return err
			}
		}
		jobs, err := t.compareAll(ctx, found, start)
		if err != nil {
			return err
		}
		if err := inFamilies(jobs, t.Concurrency, func(j *job) error { return t.begin(ctx, j) }); err != nil {
			return err
		}
	}
}

// dated returns the images with their digests.
func (t *task) dated(ctx context.Context, r message.Repository) ([]message.Image, error) {
	var with, without []message.Image
	for _, image := range r.Images {
		if image.Digest.IsZero() {
			without = append(without, image)
		} else {
			with = append(with, image)
		}
	}
	without, err := t.refresh(ctx, r, without)
	return append(with, without...), err
}

// found returns the companions of all claims that are not mirrored yet.
func (t *task) found(ctx context.Context) ([]message.Repository, error) {
	claims := t.companions.claims
	t.companions.claims = nil
	tags, errs := make([][]listing.Tag, len(claims)), make([]error, len(claims))
	var group errgroup.Group
	group.SetLimit(requests)
	for i, c := range claims {
		group.Go(func() error {
			tags[i], errs[i] = t.companionsOf(c)
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs
	var found []message.Repository
	for i, c := range claims {
		if errs[i] != nil {
			if err := t.unaccompanied(ctx, c, errs[i]); err != nil {
				return nil, err
			}
			continue
		}
		r := t.companions.entry(c.repository)
		for _, tag := range tags[i] {
			r.Images = append(r.Images, message.Image{Tag: tag.Name, Digest: tag.Digest, MediaType: tag.MediaType})
		}
		if r.Images = t.companions.expect(r, r.Images); len(r.Images) > 0 {
			found = join(found, r)
		}
	}
	return found, nil
}

// join adds a repository to those of its entry.
func join(all []message.Repository, r message.Repository) []message.Repository {
	for i := range all {
		if sameEntry(all[i], r) {
			all[i].Images = append(all[i].Images, r.Images...)
			return all
		}
	}
	return append(all, r)
}

// companionsOf finds the companions of a claim at the source.
func (t *task) companionsOf(c claim) ([]listing.Tag, error) {
	r := c.repository
	if t.stopping() || t.limits(r.Source) || t.limits(r.Destination) {
		return nil, errLeft
	}
	listed, err := t.companions.list(r, func() (resolve.Companions, error) {
		return resolve.ListCompanions(t.work, t.Mirror.Registry, r.Source)
	})
	if err != nil || listed != nil && len(listed) == 0 {
		return nil, err
	}
	var digests []reference.Digest
	if !open(r) || resolve.AreCompanions(r) { // else resolving has found its own
		digests = append(digests, c.image.Digest)
	}
	if kind := types.MediaType(c.image.MediaType); !kind.IsImage() && !kind.IsSchema1() {
		below, err := t.Mirror.Below(t.work, r.Destination, c.at)
		if err != nil {
			return nil, err
		}
		digests = append(digests, below...)
	}
	var tags []listing.Tag
	for _, digest := range digests {
		if listed == nil {
			found, err := t.possible(r, digest)
			if err != nil {
				return nil, err
			}
			tags = append(tags, found...)
		}
		tags = append(tags, listed[digest]...)
	}
	return tags, nil
}

// possible looks the companions of a manifest up by name, where the source does not list
// its tags.
func (t *task) possible(r message.Repository, digest reference.Digest) ([]listing.Tag, error) {
	var found []listing.Tag
	for _, tag := range resolve.PossibleCompanions(digest) {
		d, err := t.Mirror.Registry.Head(t.work, r.Source, tag)
		if d.Pulled {
			t.note(func(p *progress) { p.pulls++ })
		}
		switch {
		case err == nil:
			found = append(found, listing.Tag{Name: tag, Digest: d.Digest, MediaType: d.MediaType})
		case !errors.Is(err, registry.ErrNotFound):
			return nil, err
		}
	}
	return found, nil
}

// unaccompanied keeps an image whose companions could not be found for another try, or
// gives it up: it is not done, though it is at the destination.
func (t *task) unaccompanied(ctx context.Context, c claim, err error) error {
	t.note(func(p *progress) { p.images.Total++ })
	t.mirrored.remove(c.repository.Source, failure.Source(c.repository, c.image.Tag))
	if errors.Is(err, errLeft) {
		t.later(c.repository, []message.Image{c.image}, 0)
		return nil
	}
	return t.failed(ctx, c.repository, try{c.image, err})
}
