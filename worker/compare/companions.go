package compare

import (
	"context"
	"errors"
	"sync"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// Bearer is an image whose companions are mirrored with it: the signatures, SBOMs and
// attestations that have tags of their own. When a selection is resolved, it brings those of
// the images that it chooses. Those of manifests below an image are known as soon as it is
// at the destination, where reading it takes no pull.
type Bearer struct {
	Entry message.Repository // without its images
	Image message.Image
	job   *Job
	at    reference.Digest // that it has at the destination; zero if it is not there yet
}

// followed is how far the companions of a job are found.
type followed int

const (
	notAtAll followed = iota
	byDigest          // those of manifests below it are not known yet
	wholly
)

// Bears returns the job as a bearer, if there may be companions that are not found yet. at
// is the digest that it has at the destination.
func (j *Job) Bears(at reference.Digest) []Bearer {
	all := j.All()
	if len(all) == 0 || j.followed == wholly || !resolve.BringsCompanions(j.Entry) {
		return nil
	}
	return []Bearer{{j.Entry, all[0], j, at}}
}

// Unaccompanied is a bearer whose companions could not be found.
type Unaccompanied struct {
	Bearer
	Err error
}

// companions is what is known of the companions that sources have.
type companions struct {
	mu      sync.Mutex
	entries map[Entry]message.Repository  // of companions, by those that bring them
	listed  map[Entry]resolve.Companions  // by a selection
	sources map[reference.Repository]list // for entries that name their tags
}

// list is the companions of a repository; nil if it does not list its tags.
type list struct {
	companions resolve.Companions
	err        error
}

// note keeps what a listing has shown.
func (c *companions) note(r message.Repository, listed resolve.Companions) {
	if listed == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	set(&c.listed, EntryOf(r), listed)
}

// entry returns the entry of the companions that an entry brings.
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

// follow adds the companions of the bearers to a comparison, and returns the entries that
// are to be compared for them. A source whose tags could not be listed is asked again by the
// next call.
func (c *Comparer) follow(ctx context.Context, bearers []Bearer, all *Comparison) []message.Repository {
	tags, errs := make([][]listing.Tag, len(bearers)), make([]error, len(bearers))
	atOnce(len(bearers), func(i int) { tags[i], errs[i] = c.companionsOf(ctx, bearers[i]) })
	c.companions.forgetErrors()
	var entries []message.Repository
	index := map[Entry]int{}
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
		at, known := index[EntryOf(r)]
		if !known {
			at = len(entries)
			index[EntryOf(r)] = at
			entries = append(entries, message.Repository{})
		}
		r.Images = append(entries[at].Images, r.Images...)
		entries[at] = r
	}
	for i, r := range entries {
		entries[i].Images = nil
		for k, err := range c.LookUp(ctx, r, r.Images) {
			if err == nil {
				entries[i].Images = append(entries[i].Images, r.Images[k])
				continue
			}
			failed := &Job{Entry: r, Images: r.Images[k : k+1 : k+1], Verdict: Failed, Why: err}
			failed.Entry.Images = nil
			all.Jobs = append(all.Jobs, failed)
		}
	}
	return entries
}

// companionsOf finds the companions of a bearer at the source, unless they were found before.
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
	if b.job.followed == notAtAll && (!IsOpen(r) || resolve.AreCompanions(r)) { // else resolving has found its own
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

// list returns the companions that the source has, listed once; nil if it does not list its
// tags.
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

// forgetErrors lets lists be asked for again that could not be had.
func (c *companions) forgetErrors() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for source, l := range c.sources {
		if l.err != nil {
			delete(c.sources, source)
		}
	}
}

// possible looks the companions of a manifest up by name, at a source that does not list
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
