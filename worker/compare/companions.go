package compare

import (
	"context"
	"errors"
	"maps"
	"sync"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// Bearer is an image whose companions are mirrored with it: signatures, SBOMs and attestations
// that have tags of their own. Resolving a selection finds the companions of the chosen images.
// The companions of manifests below an index are found when the index is at the destination,
// because reading it there takes no pull.
type Bearer struct {
	Entry message.Repository // without its images
	Image message.Image
	job   *Job
	at    reference.Digest // its digest at the destination; zero if it is absent
}

// followed is how far the companions of a job were looked for.
type followed int

const (
	notAtAll followed = iota
	byDigest          // companions of manifests below it are still unknown
	wholly
)

// Bears returns the job as a bearer if it may have companions that are not found yet, and
// otherwise nothing. at is its digest at the destination.
func (j *Job) Bears(at reference.Digest) []Bearer {
	all := j.All()
	if len(all) == 0 || j.followed == wholly || !resolve.BringsCompanions(j.Entry) {
		return nil
	}
	return []Bearer{{j.Entry, all[0], j, at}}
}

// Unaccompanied is a bearer whose companions could not be looked for.
type Unaccompanied struct {
	Bearer
	Err error
}

// companions are the known companions at sources.
type companions struct {
	mu      sync.Mutex
	entries map[Entry]message.Repository  // entries of companions, by the entry of their bearers
	listed  map[Entry]resolve.Companions  // found when an entry was resolved
	sources map[reference.Repository]list // listed for entries that name their tags
}

// list holds the companions in a repository; nil if the registry does not list its tags.
type list struct {
	companions resolve.Companions
	err        error
}

// note keeps the companions that were listed when an entry was resolved.
func (c *companions) note(r message.Repository, listed resolve.Companions) {
	if listed == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	set(&c.listed, EntryOf(r), listed)
}

// entry returns the entry of the companions of an entry's images.
func (c *companions) entry(r message.Repository) message.Repository {
	if resolve.AreCompanions(r) {
		r.Images, r.Found = nil, true
		return r
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := EntryOf(r)
	of, known := c.entries[key]
	if !known {
		of = resolve.OfCompanions(r)
		set(&c.entries, key, of)
		if listed, known := c.listed[key]; known {
			c.listed[EntryOf(of)] = listed
		}
	}
	return of
}

// follow looks for the companions of the bearers, and returns them as entries that are still to
// be compared. It adds its failures to the comparison. The next call lists the tags of a source
// again if that has failed.
func (c *Comparer) follow(ctx context.Context, bearers []Bearer, all *Comparison) []message.Repository {
	tags, errs := make([][]listing.Tag, len(bearers)), make([]error, len(bearers))
	atOnce(len(bearers), func(i int) { tags[i], errs[i] = c.companionsOf(ctx, bearers[i]) })
	c.companions.forgetErrors()
	var found []message.Repository
	for i, b := range bearers {
		all.Hidden = all.Hidden || b.job.followed == byDigest
		if errs[i] != nil {
			all.Failed = append(all.Failed, Unaccompanied{b, errs[i]})
		}
		r := c.companions.entry(b.Entry)
		for _, tag := range tags[i] {
			r.Images = append(r.Images, message.Image{Tag: tag.Name, Digest: tag.Digest, MediaType: tag.MediaType})
		}
		if r.Images = c.Expect(r, r.Images); len(r.Images) == 0 {
			continue
		}
		all.Companions += len(r.Images)
		c.mu.Lock()
		for _, image := range r.Images {
			set(&c.bearers, placeOf(r, image), b.job)
		}
		c.mu.Unlock()
		found = append(found, r)
	}
	var entries []message.Repository
	for _, same := range Grouped(found, EntryOf) {
		r := same[0]
		for _, other := range same[1:] {
			r.Images = append(r.Images, other.Images...)
		}
		images := r.Images
		r.Images = nil
		for k, err := range c.LookUp(ctx, r, images) {
			if err == nil {
				r.Images = append(r.Images, images[k])
			} else {
				all.Jobs = append(all.Jobs, jobOf(r, images[k], reference.Digest{}, Failed, err))
			}
		}
		entries = append(entries, r)
	}
	return entries
}

// companionsOf returns the companions of a bearer at the source that were not found before.
func (c *Comparer) companionsOf(ctx context.Context, b Bearer) (tags []listing.Tag, err error) {
	r := b.Entry
	next := wholly
	defer func() {
		if err == nil {
			b.job.followed = next
		}
	}()
	listed, err := c.list(ctx, r)
	if err != nil || listed != nil && len(listed) == 0 {
		return nil, err
	}
	var digests []reference.Digest
	if b.job.followed == notAtAll && (!IsOpen(r) || resolve.AreCompanions(r)) { // otherwise, resolving has found them
		digests = append(digests, b.Image.Digest)
	}
	switch {
	case isImage(b.Image.MediaType):
	case b.at.IsZero():
		next = byDigest
	default:
		err := c.Asker.Ask(ctx, r, r.Destination, func() error {
			below, err := c.Mirror.Below(ctx, r.Destination, b.at)
			digests = append(digests, below...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for _, digest := range digests {
		if listed == nil {
			possible, err := c.possible(ctx, r, digest)
			if err != nil {
				return nil, err
			}
			tags = append(tags, possible...)
		}
		tags = append(tags, listed[digest]...)
	}
	return tags, nil
}

// list returns all companions in the source, which it lists once. It returns nil if the
// registry does not list its tags.
func (c *Comparer) list(ctx context.Context, r message.Repository) (resolve.Companions, error) {
	known := &c.companions
	known.mu.Lock()
	defer known.mu.Unlock()
	if listed, ok := known.listed[EntryOf(r)]; ok {
		return listed, nil
	}
	l, ok := known.sources[r.Source]
	if !ok {
		l.err = c.Asker.Ask(ctx, r, r.Source, func() (err error) {
			l.companions, err = resolve.ListCompanions(ctx, c.Mirror.Registry, r.Source)
			return err
		})
		if l.err != nil && outcome.Classify(l.err) == outcome.Final {
			l = list{}
		}
		set(&known.sources, r.Source, l)
	}
	return l.companions, l.err
}

// forgetErrors forgets failed listings, so that they are tried again.
func (c *companions) forgetErrors() {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.sources, func(_ reference.Repository, l list) bool { return l.err != nil })
}

// possible looks up the companions of a manifest by name, because the registry does not list
// its tags.
func (c *Comparer) possible(ctx context.Context, r message.Repository, digest reference.Digest) ([]listing.Tag, error) {
	var found []listing.Tag
	for _, tag := range resolve.PossibleCompanions(digest) {
		err := c.Asker.Ask(ctx, r, r.Source, func() error {
			d, err := c.Mirror.Registry.Head(ctx, r.Source, tag)
			if d.Pulled {
				c.Asker.Pulled()
			}
			if err == nil {
				found = append(found, listing.Tag{Name: tag, Digest: d.Digest, MediaType: d.MediaType})
			}
			return err
		})
		if err != nil && !errors.Is(err, registry.ErrNotFound) {
			return nil, err
		}
	}
	return found, nil
}
