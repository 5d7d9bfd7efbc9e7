package chunk

import (
	"context"
	"time"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
)

// job is one digest to bring to one destination repository, with all the tags
// that point to it.
type job struct {
	repository message.Repository
	digest     string
	mediaType  string
	images     []message.Image
	resolved   time.Time
}

// copy does a job: the content where the destination does not have it, then the
// tags.
func (t *task) copy(ctx context.Context, j *job) error {
	if t.stopping() {
		t.later(j.repository, j.images, 0)
		return nil
	}
	if err := t.lookAgain(ctx, j); err != nil || len(j.images) == 0 {
		return err
	}
	r := j.repository
	cost, err := t.Mirror.Copy(t.work, r.Source, r.Destination, registry.Descriptor{Digest: j.digest, MediaType: j.mediaType})
	t.note(func(p *progress) { p.pulls += cost.Pulls; p.bytes += cost.Bytes })
	if outcome.Classify(err) == outcome.Gone {
		return t.gone(ctx, j, err)
	}
	if err != nil {
		return t.failed(ctx, r, j.images, err)
	}
	return t.tag(ctx, j, cost.Pulls > 0)
}

// tag puts the job's tags on what is at the destination by now.
func (t *task) tag(ctx context.Context, j *job, copied bool) error {
	for _, image := range j.images {
		if err := t.Mirror.Tag(t.work, j.repository.Destination, j.digest, destinationTag(image)); err != nil {
			if err := t.failed(ctx, j.repository, []message.Image{image}, err); err != nil {
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

// lookAgain leaves the job with the images whose tags still have its digest, where
// that was found out long ago. The others go to the next round.
func (t *task) lookAgain(ctx context.Context, j *job) error {
	if time.Since(j.resolved) < staleAfter {
		return nil
	}
	images, err := t.refresh(ctx, j.repository, j.images)
	if err != nil {
		return err
	}
	j.images = nil
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
	for i := range j.images {
		j.images[i].Attempts++
	}
	if j.repository.Digest != "" {
		return t.fail(ctx, j.repository, j.images, cause)
	}
	images, err := t.refresh(ctx, j.repository, j.images)
	if err != nil {
		return err
	}
	for _, image := range images {
		if image.Digest != j.digest && image.Attempts < t.MaxAttempts {
			t.later(j.repository, []message.Image{image}, 0)
		} else if err := t.fail(ctx, j.repository, []message.Image{image}, cause); err != nil {
			return err
		}
	}
	return nil
}
