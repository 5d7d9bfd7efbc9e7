package chunk

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/meter"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
)

// job is one digest to bring to one destination repository, with all the tags
// that point to it.
type job struct {
	repository message.Repository
	digest     reference.Digest // zero: it is looked up when it is the job's turn
	mediaType  string
	images     []message.Image  // to be tagged
	current    []message.Image  // tagged already: only what refers to them is looked for
	at         reference.Digest // digest that it has at the destination, where that is known
	isNew      bool             // it was not there, and is now
	resolved   time.Time
}

// all are the images of the job.
func (j *job) all() []message.Image { return slices.Concat(j.images, j.current) }

// begin does a job, unless nothing is to be begun any more.
func (t *task) begin(ctx context.Context, j *job) error {
	r := j.repository
	switch {
	case t.stopping(), t.limits(r.Source), t.limits(r.Destination):
		t.later(r, j.all(), 0)
		return nil
	case j.digest.IsZero():
		return t.copyUnknown(ctx, j)
	}
	return t.copy(ctx, j)
}

// copy does a job: the content where the destination does not have it, what refers
// to it, then the tags. The tags are looked up again before and after, where that
// was long ago.
func (t *task) copy(ctx context.Context, j *job) error {
	r := j.repository
	if err := t.lookAgain(ctx, j); err != nil || len(j.all()) == 0 {
		return err
	}
	if j.at.IsZero() {
		j.at = t.held.at(j)
	}
	if absent, err := t.isAbsent(ctx, j); err != nil {
		return err
	} else if absent {
		t.skip(j)
		return nil
	}
	copied, err := t.bring(j)
	t.note(func(p *progress) { p.pulls += copied.Pulls; p.bytes += copied.Bytes })
	switch {
	case errors.Is(err, platform.ErrNoPlatform):
		t.skip(j)
		if copied.Pulls == 0 {
			return nil
		}
		return t.Notes.NoteAbsent(ctx, j.digest, wanted(r))
	case errors.Is(err, mirror.ErrReferrers):
		return t.incomplete(ctx, j, copied.Digest, err)
	case outcome.Classify(err) == outcome.Gone:
		return t.gone(ctx, j, err)
	case err != nil:
		return t.failed(ctx, r, tries(j.all(), err)...)
	}
	if err := t.lookAgain(ctx, j); err != nil {
		return err
	}
	t.companions.claim(r, copied.Digest, j.all()...)
	t.unchanged(r, j.current)
	return t.tag(ctx, j, copied.Digest)
}

// copyUnknown does a job whose digest was not looked up before.
func (t *task) copyUnknown(ctx context.Context, j *job) error {
	resolved, r := t.now(), j.repository
	var err error
	if r.Images, err = t.refresh(ctx, r, j.images); err != nil {
		return err
	}
	jobs, err := t.compare(ctx, r, resolved)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if err := t.copy(ctx, j); err != nil {
			return err
		}
	}
	return nil
}

// bring makes sure that the destination has the job's content.
func (t *task) bring(j *job) (mirror.Copied, error) {
	r := j.repository
	if j.at.IsZero() || bringsReferrers(r) {
		work, ended := t.watched(j)
		defer ended()
		return t.transfer(work, j)
	}
	return mirror.Copied{Digest: j.at}, nil
}

// watched lets the observer see what a job moves under the context.
func (t *task) watched(j *job) (work context.Context, ended func()) {
	moved, image := new(meter.Meter), j.all()[0]
	ended = t.Observer.Copying(failure.Source(j.repository, image.Tag), j.repository.Destination.String()+":"+destinationTag(image).String(), moved)
	return meter.With(t.work, moved), ended
}

// transfer brings what the destination lacks of the job's content, and what refers to it.
func (t *task) transfer(work context.Context, j *job) (mirror.Copied, error) {
	r := j.repository
	copied := mirror.Copied{Digest: j.at}
	if j.at.IsZero() {
		var err error
		copied, err = t.Mirror.Copy(work, r.Source, r.Destination, registry.Descriptor{Digest: j.digest, MediaType: j.mediaType}, wanted(r))
		if err != nil {
			return copied, err
		}
		j.isNew = copied.New
		t.has(r, j.digest, copied.Digest)
	}
	if !bringsReferrers(r) {
		return copied, nil
	}
	more, err := t.Mirror.CopyReferrers(work, r.Source, r.Destination, j.digest, copied.Digest)
	copied.Pulls += more.Pulls
	copied.Bytes += more.Bytes
	return copied, err
}

// isAbsent tells whether it is known that nothing of the job is wanted.
func (t *task) isAbsent(ctx context.Context, j *job) (bool, error) {
	if w := wanted(j.repository); !w.All() && j.at.IsZero() {
		return t.Notes.Absent(ctx, j.digest, w)
	}
	return false, nil
}

// skip counts a job of which nothing is wanted.
func (t *task) skip(j *job) {
	n := len(j.all())
	t.entries.found(j.repository)
	t.count("skipped", n, func(p *progress) { p.images.Skipped += n })
}

// unchanged counts images that the destination has.
func (t *task) unchanged(r message.Repository, images []message.Image) {
	for _, image := range images {
		t.seen(r, image.Tag)
	}
	t.count("unchanged", len(images), func(p *progress) { p.images.Unchanged += len(images) })
}

// tag puts the job's tags on what is at the destination by now.
func (t *task) tag(ctx context.Context, j *job, digest reference.Digest) error {
	copied := j.isNew
	for _, image := range j.images {
		if err := t.Mirror.Tag(t.work, target(j.repository, image), digest); err != nil {
			if errors.Is(err, mirror.ErrVanished) {
				t.held.forget(j) // the next try copies it
			}
			if err := t.failed(ctx, j.repository, try{image, err}); err != nil {
				return err
			}
			continue
		}
		t.seen(j.repository, image.Tag)
		if copied {
			t.count("copied", 1, func(p *progress) { p.images.Copied++ })
		} else {
			t.count("tagged", 1, func(p *progress) { p.images.Tagged++ })
		}
		copied = false // the others of the job were only tagged
	}
	return nil
}

// incomplete tags what is at the destination, and keeps the images for another try of what
// refers to them, or gives them up.
func (t *task) incomplete(ctx context.Context, j *job, digest reference.Digest, cause error) error {
	if err := t.lookAgain(ctx, j); err != nil {
		return err
	}
	t.companions.claim(j.repository, digest, j.all()...)
	failed := tries(j.current, cause)
	for _, image := range j.images {
		err := cause
		if outcome.Classify(cause) != outcome.Interrupted {
			if untagged := t.Mirror.Tag(t.work, target(j.repository, image), digest); untagged != nil {
				err = untagged
			}
		}
		failed = append(failed, try{image, err})
	}
	return t.failed(ctx, j.repository, failed...)
}

// wanted is what of each image of the repository is mirrored.
func wanted(r message.Repository) platform.Wanted {
	if r.Selection == nil {
		return platform.Wanted{}
	}
	return platform.Wanted{Platforms: r.Selection.Platforms, WithoutAttestations: r.Selection.WithoutAttestations}
}

// bringsReferrers tells whether what refers to an image is mirrored, too.
func bringsReferrers(r message.Repository) bool { return r.Selection != nil && r.Selection.Referrers }

// target is where an image is mirrored to.
func target(r message.Repository, image message.Image) mirror.Target {
	return mirror.Target{Repository: r.Destination, Tag: destinationTag(image), Referrers: bringsReferrers(r)}
}

// lookAgain leaves the job with the images whose tags still have its digest, where
// that was found out long ago. The others go to the next round.
func (t *task) lookAgain(ctx context.Context, j *job) error {
	now := t.now()
	if now.Sub(j.resolved) < staleAfter {
		return nil
	}
	images, err := t.refresh(ctx, j.repository, j.images)
	if err != nil {
		return err
	}
	// What is tagged already stays as it is, whatever has happened since.
	j.images, j.resolved = nil, now
	for _, image := range images {
		if image.Digest == j.digest {
			j.images = append(j.images, image)
		} else {
			t.later(j.repository, []message.Image{image}, 0)
		}
	}
	return nil
}

// gone handles a digest that is not at the source any more: where a tag has moved,
// it is tried with its new digest, which counts as a try; where it has not, the
// image cannot be copied.
func (t *task) gone(ctx context.Context, j *job, cause error) error {
	images := j.all()
	for i := range images {
		images[i].Attempts++
	}
	if j.repository.Digest.IsZero() {
		var err error
		if images, err = t.refresh(ctx, j.repository, images); err != nil {
			return err
		}
	}
	var final []try
	for _, image := range images {
		if image.Digest != j.digest && image.Attempts < t.MaxAttempts {
			t.later(j.repository, []message.Image{image}, 0)
		} else {
			final = append(final, try{image, cause})
		}
	}
	if len(final) == 0 {
		return nil
	}
	return t.giveUp(ctx, j.repository, final...)
}
