package chunk

import (
	"context"
	"errors"
	"time"

	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/outcome"
)

// tag puts the job's tags on what is at the destination by now. The first one that can be
// put has the given outcome.
func (e *execution) tag(ctx context.Context, j *compare.Job, copied mirror.Copied, took time.Duration, first run.Outcome) error {
	var put []message.Image
	for _, image := range j.Images {
		taken, err := e.put(ctx, j, image, copied.Digest)
		if !taken.IsZero() {
			if err := e.Keep(ctx, j.Keeps(image, taken)); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			if errors.Is(err, mirror.ErrVanished) {
				e.comparer.Forget(j) // the next try copies it
			}
			if err := e.failed(ctx, j.Entry, attempt{image, err}); err != nil {
				return err
			}
			continue
		}
		put = append(put, image)
	}
	e.changed(j, put, copied, took)
	for _, image := range put {
		e.seen(j.Entry, image.Tag)
		e.note(j.Entry, image, catalog.Tag{State: first, Source: j.Digest, At: copied.Digest})
		e.count(first, 1)
		first = run.Tagged
	}
	return nil
}

// put puts the tag of an image. An immutable tag that has another digest by now stays as it is:
// taken is that digest then. What the tag has is looked up again if it matters, because a copy
// may have taken long.
func (e *execution) put(ctx context.Context, j *compare.Job, image message.Image, digest reference.Digest) (taken reference.Digest, err error) {
	to, immutable := compare.Target(j.Entry, image), e.comparer.IsImmutable(j.Entry, image)
	if immutable || e.backsUp(j, image) {
		have, err := e.mirror.Tagged(e.work, to.Repository, to.Tag)
		if err != nil || immutable && !have.IsZero() && have != digest {
			return have, err
		}
		j.Replaces(to.Tag, have)
	}
	if err := e.backUp(ctx, j, image, digest); err != nil {
		return taken, err
	}
	if err := e.mirror.Tag(e.work, to, digest); err != nil {
		return taken, err
	}
	if err := e.expireBackups(ctx, j, image); err != nil {
		return taken, err
	}
	if immutable {
		e.comparer.Saw(j.Entry, image, digest)
	}
	return taken, nil
}

// changed notes tags that were put.
func (e *execution) changed(j *compare.Job, put []message.Image, copied mirror.Copied, took time.Duration) {
	var changes []change.Change
	for _, image := range put {
		tag := compare.DestinationTag(image)
		if j.Had[tag] == copied.Digest {
			continue // a list of referrers, to which others were added
		}
		changes = append(changes, change.Change{
			Source: j.Entry.Source, Destination: j.Entry.Destination, Tag: tag, From: j.Had[tag], To: copied.Digest,
			Bytes: copied.Bytes, Took: took, At: e.worker.now().UTC(),
		})
		copied.Bytes, took = 0, 0
	}
	if len(changes) > 0 {
		e.delivery.Observer.Changed(changes)
	}
}

// incomplete tags what is at the destination, and keeps the images for another try of their
// referrers, or gives them up.
func (e *execution) incomplete(ctx context.Context, j *compare.Job, copied mirror.Copied, took time.Duration, cause error) error {
	if err := e.lookAgain(ctx, j); err != nil {
		return err
	}
	e.bears(j, copied.Digest)
	var put []message.Image
	failed := attemptsOf(j.Current, cause)
	for _, image := range j.Images {
		err := cause
		if outcome.Classify(cause) != outcome.Interrupted {
			taken, untagged := e.put(ctx, j, image, copied.Digest)
			if !taken.IsZero() {
				if err := e.Keep(ctx, j.Keeps(image, taken)); err != nil {
					return err
				}
				continue
			}
			if untagged != nil {
				err = untagged
			} else {
				put = append(put, image)
			}
		}
		failed = append(failed, attempt{image, err})
	}
	e.changed(j, put, copied, took)
	return e.failed(ctx, j.Entry, failed...)
}
