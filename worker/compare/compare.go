// Package compare decides what the images of an entry of the list need at the destination,
// for a run and for a forecast alike. It asks registries and changes nothing there.
package compare

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// AtOnce is how many small requests a Comparer makes at once for one repository. The Asker
// bounds those of all repositories.
const AtOnce = 16

// Asker makes the requests of a Comparer. It decides when one is made, and whether again.
type Asker interface {
	// Ask makes a request to a repository, which is for an entry. It returns an error of
	// its own if it does not make the request.
	Ask(ctx context.Context, entry message.Repository, repository reference.Repository, request func() error) error
	// Pulled counts a pull that a request has taken.
	Pulled()
}

// Comparer compares images with their destination. It is for one chunk, or one forecast:
// it remembers what the destinations have and what it has decided.
type Comparer struct {
	Mirror *mirror.Mirror // asks both sides
	Asker  Asker
	// Absent reports whether it is known that a manifest has nothing of what is wanted. Its
	// error ends a comparison.
	Absent func(ctx context.Context, digest reference.Digest, wanted platform.Wanted) (bool, error)
	// Held returns what a destination is known to have under immutable tags. Its error ends a
	// comparison.
	Held func(ctx context.Context, destination reference.Repository) (map[reference.Tag]Held, error)
	// Ages knows how long tags have had their digests, and what was released. Its error ends
	// a comparison.
	Ages Ages
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Last returns what a source was last known to list; zero if nothing is known. Its error
	// ends a comparison.
	Last func(ctx context.Context, source reference.Repository) (Listing, error)
	// Predict skips images of which a listing says that no platform is wanted. A run has to
	// read the index itself to be sure.
	Predict bool

	companions companions
	immutables immutables
	sightings  sightings

	mu      sync.Mutex
	decided map[content]reference.Digest // what the destination has; zero if a job copies it
	known   map[place]bool               // tags that are mirrored
	listed  map[place]resolve.Listed
	bearers map[place]*Job // of companions
}

// Resolved notes what an entry means today, and returns its images without those that
// another entry mirrors to the same tag.
func (c *Comparer) Resolved(r message.Repository, found resolve.Result) []message.Image {
	images := c.Expect(r, found.Images)
	c.companions.note(r, found.Companions)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range images {
		if listed, known := found.Listed[i.Tag]; known {
			set(&c.listed, placeOf(r, i), listed)
		}
	}
	if r.Selection != nil && r.Selection.NewerThan > 0 {
		for _, i := range images {
			c.sightings.sight(r, i, found.Listed[i.Tag], c.now())
		}
	}
	return images
}

// Expect notes images that are mirrored, and returns those that were not expected yet.
func (c *Comparer) Expect(r message.Repository, images []message.Image) (others []message.Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range images {
		if at := placeOf(r, i); !c.known[at] {
			set(&c.known, at, true)
			others = append(others, i)
		}
	}
	return others
}

// Unexpect notes that the images of a job are not mirrored, unless another job brings them.
func (c *Comparer) Unexpect(j *Job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range j.All() {
		delete(c.known, placeOf(j.Entry, i))
	}
}

// Hold notes that the destination has the content of a job, and the digest of it there.
func (c *Comparer) Hold(j *Job, at reference.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	set(&c.decided, contentOf(j.Entry, j.Digest), at)
}

// Forget notes that the destination does not have the content of a job, whatever was known.
func (c *Comparer) Forget(j *Job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.decided, contentOf(j.Entry, j.Digest))
}

// Present returns the digest that the content of a job has at the destination. It is zero if
// an earlier job is to bring it there; then coming is true.
func (c *Comparer) Present(j *Job) (at reference.Digest, coming bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, coming = c.decided[contentOf(j.Entry, j.Digest)]
	return at, coming
}

// Comparison is what a comparison has found.
type Comparison struct {
	// Jobs are in the order of the entries, their companions last: one for each digest of an
	// entry, and one for each image that was asked for in vain.
	Jobs       []*Job
	Companions int // how many images of the jobs are companions of others
	Failed     []Unaccompanied
	Hidden     bool // there may be more companions below indexes that the destination lacks
}

// Compare returns what the images of the entries need, and their companions, as far as those
// are known yet. The error is Absent's.
func (c *Comparer) Compare(ctx context.Context, entries []message.Repository) (Comparison, error) {
	var all Comparison
	err := c.add(ctx, entries, &all)
	return all, err
}

// Accompany returns what those companions of the bearers need that were not known before.
// The error is Absent's.
func (c *Comparer) Accompany(ctx context.Context, bearers []Bearer) (Comparison, error) {
	var all Comparison
	err := c.add(ctx, c.follow(ctx, bearers, &all), &all)
	return all, err
}

// add adds entries to a comparison, their companions, and theirs.
func (c *Comparer) add(ctx context.Context, entries []message.Repository, all *Comparison) error {
	var listed shelves
	for len(entries) > 0 {
		jobs, err := c.jobs(ctx, entries, &listed)
		if err != nil {
			return err
		}
		all.Jobs = append(all.Jobs, jobs...)
		var bearers []Bearer
		for _, j := range jobs {
			if !j.IsSkipped() && j.Verdict != Failed {
				bearers = append(bearers, j.Bears(j.At)...)
			}
		}
		entries = c.follow(ctx, bearers, all)
	}
	return nil
}

// jobs returns the jobs of entries, in their order.
func (c *Comparer) jobs(ctx context.Context, entries []message.Repository, listed *shelves) ([]*Job, error) {
	var destinations [][]message.Repository
	index := map[reference.Repository]int{}
	for _, r := range entries {
		i, known := index[r.Destination]
		if !known {
			i = len(destinations)
			index[r.Destination] = i
			destinations = append(destinations, nil)
		}
		destinations[i] = append(destinations[i], r)
	}
	jobs := make([][]*Job, len(destinations))
	var group errgroup.Group
	group.SetLimit(AtOnce)
	for i, entries := range destinations {
		group.Go(func() (err error) {
			jobs[i], err = c.compare(ctx, entries, listed.of(c, entries[0].Destination))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var all []*Job
	for _, j := range jobs {
		all = append(all, j...)
	}
	return all, nil
}

// compare compares entries that have one destination.
func (c *Comparer) compare(ctx context.Context, entries []message.Repository, listed *shelf) ([]*Job, error) {
	tags, empty, err := c.look(ctx, entries, listed)
	if err != nil {
		return nil, err
	}
	var jobs []*Job
	for _, r := range entries {
		images := r.Images
		r.Images = nil
		byDigest := map[reference.Digest]*Job{}
		for i, image := range images {
			if tags[i].err != nil {
				jobs = append(jobs, &Job{Entry: r, Digest: image.Digest, Images: images[i : i+1 : i+1], Verdict: Failed, Why: tags[i].err})
				continue
			}
			until, err := c.waits(ctx, r, image, tags[i].current || tags[i].kept)
			if err != nil {
				return nil, err
			}
			if tags[i].kept { // which is reported at once, however young it is
				jobs = append(jobs, keep(r, image, tags[i].digest))
				continue
			}
			if !until.IsZero() {
				jobs = append(jobs, wait(r, image, tags[i].digest, until))
				continue
			}
			j := byDigest[image.Digest]
			if j == nil {
				j = &Job{Entry: r, Digest: image.Digest, MediaType: image.MediaType, Verdict: Unchanged}
				j.Listed, j.Bearer = c.origin(r, image)
				byDigest[image.Digest], jobs = j, append(jobs, j)
				j.followed = wholly
			}
			if !tags[i].held {
				j.followed = notAtAll
			}
			if tags[i].current {
				j.Current, j.At = append(j.Current, image), tags[i].digest
				c.Hold(j, j.At)
			} else {
				j.Images, j.Verdict = append(j.Images, image), 0
				set(&j.Had, DestinationTag(image), tags[i].digest)
			}
		}
		tags = tags[len(images):]
	}
	return jobs, c.decideAll(ctx, jobs, empty)
}

// origin returns what the listing says of an image, and which job it is a companion of.
func (c *Comparer) origin(r message.Repository, i message.Image) (resolve.Listed, *Job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.listed[placeOf(r, i)], c.bearers[placeOf(r, i)]
}

// tagged is what the destination has under a tag.
type tagged struct {
	digest  reference.Digest // zero if there is no such tag
	current bool             // it is what the source has
	kept    bool             // it is not, and the tag is immutable
	held    bool             // by what is known; the destination was not asked
	err     error
}

// look finds out what the destination has under each tag. What its listing does not show to
// be up to date is asked for, the first tag alone: if that is missing, the repository may
// have no tags at all. Then nothing else is asked.
func (c *Comparer) look(ctx context.Context, entries []message.Repository, s *shelf) (tags []tagged, empty bool, err error) {
	var wishes []wish
	for _, r := range entries {
		for range r.Images {
			tags = append(tags, tagged{})
		}
	}
	for _, r := range entries {
		for _, image := range r.Images {
			wishes = append(wishes, wish{r, image, &tags[len(wishes)]})
		}
	}
	wishes, settle, err := c.hold(ctx, wishes)
	if err != nil {
		return nil, false, err
	}
	defer settle()
	wishes = c.search(ctx, s, wishes)
	if len(wishes) == 0 {
		return tags, false, nil
	}
	more := len(wishes) > 1 && len(s.tags) == 0
	if c.askForFirst(ctx, wishes[0], more) {
		return tags, true, nil
	}
	first := wishes[0].found
	if len(s.tags) > 0 || !first.digest.IsZero() || more && first.err == nil {
		s.warn() // the destination has the repository
	}
	atOnce(len(wishes)-1, func(i int) { c.askFor(ctx, wishes[i+1]) })
	return tags, false, nil
}

// askForFirst asks the destination for the tag of an image before more are asked for. It reports
// whether the repository is taken for empty. Without any tag it may still have the content of
// one, which is looked for if nothing else is and if the source limits pulls.
func (c *Comparer) askForFirst(ctx context.Context, w wish, more bool) (empty bool) {
	w.found.err = c.Asker.Ask(ctx, w.entry, w.entry.Destination, func() (err error) {
		w.found.current, w.found.digest, empty, err = c.Mirror.First(ctx, Target(w.entry, w.image), w.image.Digest, Wanted(w.entry), more)
		return err
	})
	return empty && w.found.err == nil && (more || c.Mirror.Free(w.entry.Source))
}

// askFor asks the destination for the tag of an image.
func (c *Comparer) askFor(ctx context.Context, w wish) {
	w.found.err = c.Asker.Ask(ctx, w.entry, w.entry.Destination, func() (err error) {
		w.found.current, w.found.digest, err = c.Mirror.Current(ctx, Target(w.entry, w.image), w.image.Digest, Wanted(w.entry))
		return err
	})
}

// LookUp asks the source for the digests of those images that have none. Of each image,
// there is an error, which may be nil.
func (c *Comparer) LookUp(ctx context.Context, r message.Repository, images []message.Image) []error {
	errs := make([]error, len(images))
	atOnce(len(images), func(i int) {
		if !images[i].Digest.IsZero() {
			return
		}
		errs[i] = c.Asker.Ask(ctx, r, r.Source, func() error {
			d, err := c.Mirror.Registry.Find(ctx, r.Source, images[i].Tag)
			if d.Pulled {
				c.Asker.Pulled()
			}
			images[i].Digest, images[i].MediaType = d.Digest, d.MediaType
			return err
		})
	})
	return errs
}

// atOnce calls do with 0 to n-1, AtOnce of them at a time.
func atOnce(n int, do func(i int)) {
	var group errgroup.Group
	group.SetLimit(AtOnce)
	for i := range n {
		group.Go(func() error {
			do(i)
			return nil
		})
	}
	_ = group.Wait() // do has no error
}

func set[K comparable, V any](m *map[K]V, key K, value V) {
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[key] = value
}
