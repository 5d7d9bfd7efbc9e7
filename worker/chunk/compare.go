package chunk

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
)

// compareAll returns what there is to do at the destination, one job for each digest
// of a repository. The digests are those of the given time, or later.
func (t *task) compareAll(ctx context.Context, all []message.Repository, resolved time.Time) ([]*job, error) {
	jobs := make([][]*job, len(all))
	var group errgroup.Group
	group.SetLimit(requests)
	for i, r := range all {
		group.Go(func() (err error) {
			jobs[i], err = t.compare(ctx, r, resolved)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var whole []*job
	for _, j := range jobs {
		whole = append(whole, j...)
	}
	for _, j := range whole {
		j.at = t.held.at(j)
	}
	return whole, nil
}

// sift tells the jobs that need a copy from those that only cost small requests.
func (t *task) sift(ctx context.Context, jobs []*job) (copies, others []*job, err error) {
	for _, j := range jobs {
		absent, err := t.isAbsent(ctx, j)
		switch {
		case err != nil:
			return nil, nil, err
		case absent || !j.at.IsZero():
			others = append(others, j)
		default:
			copies = append(copies, j)
		}
	}
	return copies, others, nil
}

// there is what the destination has under a tag.
type there struct {
	digest  reference.Digest // zero: no such tag
	current bool             // it is what the source has
}

// compare asks the destination for the tags of a repository.
func (t *task) compare(ctx context.Context, r message.Repository, resolved time.Time) ([]*job, error) {
	have, errs := t.look(r)
	var current, differ []message.Image
	var failed []error
	for i, image := range r.Images {
		if errs[i] == nil && have[i].current {
			t.has(r, image.Digest, have[i].digest)
			if !bringsReferrers(r) {
				t.companions.claim(r, have[i].digest, image)
			}
			current = append(current, image)
			continue
		}
		differ, failed = append(differ, image), append(failed, errs[i])
	}
	jobs := map[reference.Digest]*job{}
	var ordered []*job
	of := func(image message.Image) *job {
		j := jobs[image.Digest]
		if j == nil {
			j = &job{repository: r, digest: image.Digest, mediaType: image.MediaType, resolved: resolved}
			jobs[image.Digest] = j
			ordered = append(ordered, j)
		}
		return j
	}
	if bringsReferrers(r) {
		for _, image := range current {
			j := of(image)
			j.current = append(j.current, image)
		}
	} else {
		t.unchanged(r, current)
	}
	good, err := t.settle(ctx, r, differ, failed)
	for _, image := range good {
		j := of(image)
		j.images = append(j.images, image)
	}
	return ordered, err
}

// look asks the destination for each tag, the first one alone: where the repository
// is not there at all, that one and the list of its tags tell so for all.
func (t *task) look(r message.Repository) ([]there, []error) {
	have := make([]there, len(r.Images))
	ask := func(i int) (err error) {
		image := r.Images[i]
		have[i].current, have[i].digest, err = t.Mirror.Current(t.work, target(r, image), image.Digest, wanted(r))
		return err
	}
	if len(r.Images) < 2 {
		return have, t.ask(r, r.Destination, len(r.Images), ask)
	}
	errs := t.ask(r, r.Destination, 1, ask)
	if errs[0] == nil && have[0].digest.IsZero() {
		if empty, err := t.Mirror.Empty(t.work, r.Destination); err == nil && empty {
			return have, make([]error, len(have))
		}
	}
	return have, append(errs, t.ask(r, r.Destination, len(have)-1, func(i int) error { return ask(i + 1) })...)
}

// seen notes that the image is at the destination.
func (t *task) seen(r message.Repository, tag reference.Tag) {
	t.entries.found(r)
	t.mirrored.add(r.Source, failure.Source(r, tag))
}
