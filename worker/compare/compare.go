// Package compare decides what the images of an entry of the list need at the destination,
// for a run and for a forecast alike. It asks registries and changes nothing there.
//
// Comparer.Compare groups the images by digest into jobs, each with a Verdict. Package chunk
// carries verdicts out, and package check counts them; both implement Cases. verdict.go has
// all verdicts, and describes how to add one.
package compare

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// AtOnce is how many small requests a Comparer sends at once for one repository. The Asker
// limits the requests for all repositories together.
const AtOnce = 16

// Asker decides when a Comparer's requests are sent, and repeats them after errors.
type Asker interface {
	// Ask calls request, which asks a repository on behalf of an entry. If it does not call
	// request, it returns an error of its own.
	Ask(ctx context.Context, entry message.Repository, repository reference.Repository, request func() error) error
	// Pulled counts a pull.
	Pulled()
}

// Notes return what workers have noted at the broker. An error ends the comparison.
type Notes interface {
	// Absent reports whether a manifest is known to have none of the wanted platforms.
	Absent(ctx context.Context, digest reference.Digest, wanted platform.Wanted) (bool, error)
	// Held returns the immutable tags that a destination is known to have.
	Held(ctx context.Context, destination reference.Repository) (map[reference.Tag]Held, error)
	// Sighted returns since when the tags of a source have their digests.
	Sighted(ctx context.Context, source reference.Repository) (map[reference.Tag]resolve.Sighting, error)
	// Released reports whether a digest of a source waits for no minimum age.
	Released(ctx context.Context, source reference.Repository, digest reference.Digest) (bool, error)
}

// Comparer compares images with their destination. One chunk or one forecast uses one
// Comparer, which remembers the tags of destinations and its own decisions.
type Comparer struct {
	Mirror *mirror.Mirror // sends the requests
	Asker  Asker
	Notes  Notes
	// Now is the clock; if nil, time.Now is used.
	Now func() time.Time
	// Predict skips images if the source's listing shows no wanted platform. A run does not
	// rely on the listing, and reads the index instead.
	Predict bool

	companions companions
	immutables immutables
	sightings  sightings

	mu      sync.Mutex
	decided map[content]reference.Digest // digests at destinations; zero if a job is to copy it
	known   map[place]bool               // tags of the images that are mirrored
	listed  map[place]resolve.Listed
	bearers map[place]*Job // by the tag of a companion
}

// Resolved notes the images that resolving an entry has found. It returns them without those
// that another entry mirrors to the same tag.
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

// Expect notes that images are mirrored, and returns those that were not noted before.
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

// Unexpect undoes Expect for the images of a job. Another job may still bring them.
func (c *Comparer) Unexpect(j *Job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range j.All() {
		delete(c.known, placeOf(j.Entry, i))
	}
}

// Hold notes that the destination has the content of a job, under the digest at.
func (c *Comparer) Hold(j *Job, at reference.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	set(&c.decided, contentOf(j.Entry, j.Digest), at)
}

// Forget undoes Hold: the destination does not have the content of a job any more.
func (c *Comparer) Forget(j *Job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.decided, contentOf(j.Entry, j.Digest))
}

// Present returns the digest that the content of a job has at the destination. If an earlier
// job is still to bring it there, at is zero and coming is true.
func (c *Comparer) Present(j *Job) (at reference.Digest, coming bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, coming = c.decided[contentOf(j.Entry, j.Digest)]
	return at, coming
}

// Comparison is the result of a comparison.
type Comparison struct {
	// Jobs has a job for each digest of an entry, and one for each image that failed, in the
	// order of the entries. Companions come last.
	Jobs       []*Job
	Companions int // how many images of the jobs are companions
	Failed     []Unaccompanied
	Hidden     bool // indexes that the destination lacks may have more companions
}

// Compare returns the jobs of the images of entries, and of the companions that are known yet.
// The error is that of Notes.
func (c *Comparer) Compare(ctx context.Context, entries []message.Repository) (Comparison, error) {
	var all Comparison
	err := c.add(ctx, entries, &all)
	return all, err
}

// Accompany returns the jobs of companions that were not known before. The error is that of
// Notes.
func (c *Comparer) Accompany(ctx context.Context, bearers []Bearer) (Comparison, error) {
	var all Comparison
	err := c.add(ctx, c.follow(ctx, bearers, &all), &all)
	return all, err
}

// add adds the jobs of entries to a comparison, then those of their companions, and so on.
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
	destinations := Grouped(entries, func(r message.Repository) reference.Repository { return r.Destination })
	jobs := make([][]*Job, len(destinations))
	var group errgroup.Group
	group.SetLimit(AtOnce)
	for i, entries := range destinations {
		group.Go(func() (err error) {
			jobs[i], err = c.compare(ctx, entries, listed.of(c, entries[0].Destination))
			return err
		})
	}
	err := group.Wait()
	return slices.Concat(jobs...), err
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
				jobs = append(jobs, jobOf(r, image, reference.Digest{}, Failed, tags[i].err))
				continue
			}
			until, err := c.waits(ctx, r, image, tags[i].current || tags[i].kept)
			if err != nil {
				return nil, err
			}
			if tags[i].kept { // reported at once, even if the new digest is too young
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

// origin returns the listing's data of an image, and the job whose companion it is.
func (c *Comparer) origin(r message.Repository, i message.Image) (resolve.Listed, *Job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.listed[placeOf(r, i)], c.bearers[placeOf(r, i)]
}

// tagged is the state of a tag at the destination.
type tagged struct {
	digest  reference.Digest // zero if the tag is absent
	current bool             // the tag is up to date
	kept    bool             // it is not, but the tag is immutable
	held    bool             // known from Notes; the destination was not asked
	err     error
}

// look finds out the state of each tag at the destination. It looks up the tags that the
// destination's listing does not show as up to date. The first is looked up alone: if it is
// absent, the repository may be empty, so that no further look-up is needed.
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

// askForFirst looks up the first tag at the destination. It reports whether nothing else needs
// to be looked up because the repository has no tags. Such a repository may still have the
// manifest; if this is the only tag, it is worth a look-up when the source limits pulls.
func (c *Comparer) askForFirst(ctx context.Context, w wish, more bool) (empty bool) {
	w.found.err = c.Asker.Ask(ctx, w.entry, w.entry.Destination, func() (err error) {
		w.found.current, w.found.digest, empty, err = c.Mirror.First(ctx, Target(w.entry, w.image), w.image.Digest, Wanted(w.entry), more)
		return err
	})
	return empty && w.found.err == nil && (more || c.Mirror.Free(w.entry.Source))
}

// askFor looks up the tag of an image at the destination.
func (c *Comparer) askFor(ctx context.Context, w wish) {
	w.found.err = c.Asker.Ask(ctx, w.entry, w.entry.Destination, func() (err error) {
		w.found.current, w.found.digest, err = c.Mirror.Current(ctx, Target(w.entry, w.image), w.image.Digest, Wanted(w.entry))
		return err
	})
}

// LookUp looks up the digests of images without one at the source. It returns an error, or
// nil, for each image.
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

// atOnce calls do with 0 to n-1, in up to AtOnce goroutines.
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
