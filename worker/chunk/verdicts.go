package chunk

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/change"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/meter"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Copy implements compare.Cases. The first image of the job counts as copied, even if another
// job has copied its content meanwhile.
func (e *execution) Copy(ctx context.Context, j *compare.Job) error {
	return e.complete(ctx, j, run.Copied)
}

// Tag implements compare.Cases.
func (e *execution) Tag(ctx context.Context, j *compare.Job) error {
	return e.complete(ctx, j, run.Tagged)
}

// Unchanged implements compare.Cases. Referrers may be new.
func (e *execution) Unchanged(ctx context.Context, j *compare.Job) error {
	return e.complete(ctx, j, run.Unchanged)
}

// Skip implements compare.Cases. A skipped image is no longer a failure.
func (e *execution) Skip(_ context.Context, j *compare.Job) error {
	j.Verdict = compare.Skip
	why := cmp.Or(j.Why, platform.ErrNoPlatform)
	for _, image := range j.All() {
		e.seen(j.Entry, image.Tag)
		e.note(j.Entry, image, catalog.Tag{State: run.Skipped, Source: j.Digest, Why: outcome.Reason(why)})
	}
	e.count(run.Skipped, len(j.All()))
	return nil
}

// Keep implements compare.Cases. If a source moves an immutable tag, that may be an attack, so it
// is logged as a warning.
func (e *execution) Keep(_ context.Context, j *compare.Job) error {
	for _, image := range j.Images {
		tag := compare.DestinationTag(image)
		e.log.Warn("an immutable tag is kept", "image", failure.Source(j.Entry, image.Tag), "source", j.Digest, "destination", j.Had[tag])
		e.delivery.Observer.Changed([]change.Change{{
			Source: j.Entry.Source, Destination: j.Entry.Destination, Tag: tag, From: j.Had[tag], Refused: j.Digest, At: e.worker.now().UTC(),
		}})
		e.seen(j.Entry, image.Tag)
		e.note(j.Entry, image, catalog.Tag{State: run.Kept, Source: j.Digest, At: j.Had[tag], Why: j.Why.Error()})
	}
	e.count(run.Kept, len(j.Images))
	return nil
}

// Wait implements compare.Cases. The first run after the waiting time mirrors the images.
func (e *execution) Wait(_ context.Context, j *compare.Job) error {
	e.entries.found(j.Entry)
	for _, image := range j.Images {
		e.note(j.Entry, image, catalog.Tag{State: run.Waiting, Source: j.Digest, At: j.Had[compare.DestinationTag(image)], Why: j.Why.Error(), Until: j.Until.UTC()})
	}
	e.count(run.Waiting, len(j.Images))
	return nil
}

// Failed implements compare.Cases.
func (e *execution) Failed(ctx context.Context, j *compare.Job) error {
	_, err := e.settle(ctx, j.Entry, attemptsOf(j.Images, j.Why))
	return err
}

// complete copies the content of a job, then its referrers, then puts its tags. Old tags are
// looked up again before they are put.
func (e *execution) complete(ctx context.Context, j *compare.Job, first run.Outcome) error {
	r := j.Entry
	if err := e.verify(ctx, j); err != nil || len(j.All()) == 0 {
		return err
	}
	start := e.worker.now()
	copied, err := e.transfer(j)
	took := e.worker.now().Sub(start)
	e.tally(func(p *progress) { p.pulls += copied.Pulls; p.bytes += copied.Bytes })
	if errors.Is(err, mirror.ErrVanished) {
		e.comparer.Forget(j) // the next try copies it
	}
	switch {
	case errors.Is(err, platform.ErrNoPlatform):
		if err := e.Skip(ctx, j); err != nil || copied.Pulls == 0 {
			return err
		}
		return e.worker.Notes.NoteAbsent(ctx, j.Digest, compare.Wanted(r))
	case errors.Is(err, mirror.ErrReferrers):
		return e.incomplete(ctx, j, copied, took, err)
	case outcome.Classify(err) == outcome.Gone:
		return e.gone(ctx, j, err)
	case err != nil:
		return e.failed(ctx, r, attemptsOf(j.All(), err)...)
	}
	if err := e.lookAgain(ctx, j); err != nil {
		return err
	}
	e.bears(j, copied.Digest)
	for _, image := range j.Current {
		e.seen(r, image.Tag)
		e.note(r, image, catalog.Tag{State: run.Unchanged, Source: j.Digest, At: copied.Digest})
	}
	e.count(run.Unchanged, len(j.Current))
	return e.tag(ctx, j, copied, took, first)
}

// transfer copies the content of a job, and its referrers, as far as the destination lacks them.
func (e *execution) transfer(j *compare.Job) (mirror.Copied, error) {
	r := j.Entry
	copied := mirror.Copied{Digest: j.At}
	if !j.At.IsZero() && !compare.BringsReferrers(r) {
		return copied, nil
	}
	moved, image := new(meter.Meter), j.All()[0]
	ended := e.delivery.Observer.Copying(failure.Source(r, image.Tag), r.Destination.String()+":"+compare.DestinationTag(image).String(), moved)
	defer ended()
	work := meter.With(e.work, moved)
	if j.At.IsZero() {
		var err error
		copied, err = e.mirror.CopyImage(work, r.Source, r.Destination, registry.Descriptor{Digest: j.Digest, MediaType: j.MediaType}, compare.Wanted(r))
		if err != nil {
			return copied, err
		}
		e.comparer.Hold(j, copied.Digest)
		e.worker.Registries.Known(r.Source, r.Destination, copied.Digest)
	}
	if !compare.BringsReferrers(r) {
		return copied, nil
	}
	var allow func(context.Context) error
	if len(j.Images) == 0 { // none of them was verified
		allow = func(context.Context) error { return e.reason(j) }
	}
	more, err := e.mirror.CopyReferrers(work, r.Source, r.Destination, j.Digest, copied.Digest, allow)
	copied.Pulls += more.Pulls
	copied.Bytes += more.Bytes
	return copied, err
}

// note records the outcome of an image. Without a tag and a digest, it is the outcome of listing
// the repository.
func (e *execution) note(r message.Repository, image message.Image, tag catalog.Tag) {
	tag.Name = compare.DestinationTag(image)
	tag.Checked, tag.Pinned = e.worker.now().UTC(), !r.Digest.IsZero()
	e.delivery.Observer.Seen(r, tag)
}

// seen notes that the destination has the whole image.
func (e *execution) seen(r message.Repository, tag reference.Tag) {
	e.entries.found(r)
	e.mirrored.add(r.Source, failure.Source(r, tag))
}

// lookAgain looks up the tags of a job again if that was done long ago. Images whose tags have
// another digest now leave the job and go to the next round.
func (e *execution) lookAgain(ctx context.Context, j *compare.Job) error {
	now := e.worker.now()
	if now.Sub(j.Resolved) < staleAfter {
		return nil
	}
	images, err := e.refresh(ctx, j.Entry, j.Images)
	if err != nil {
		return err
	}
	// Tags that are up to date stay as they are.
	j.Images, j.Resolved = nil, now
	for _, image := range images {
		if image.Digest == j.Digest {
			j.Images = append(j.Images, image)
		} else {
			e.postpone(j.Entry, []message.Image{image}, 0)
		}
	}
	return nil
}

// gone handles a digest that the source no longer has. A tag that has moved is tried with its new
// digest, and that counts as a try. Any other image has failed.
func (e *execution) gone(ctx context.Context, j *compare.Job, cause error) error {
	images := slices.Clone(j.All())
	for i := range images {
		images[i].Attempts++
	}
	if j.Entry.Digest.IsZero() {
		var err error
		if images, err = e.refresh(ctx, j.Entry, images); err != nil {
			return err
		}
	}
	var final []attempt
	for _, image := range images {
		if image.Digest != j.Digest && image.Attempts < e.worker.MaxAttempts {
			e.postpone(j.Entry, []message.Image{image}, 0)
		} else {
			final = append(final, attempt{image, cause})
		}
	}
	if len(final) == 0 {
		return nil
	}
	return e.giveUp(ctx, j.Entry, final...)
}

// tag puts the tags of a job after its content was copied. The first tag has the given outcome,
// the others are run.Tagged.
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

// put puts the tag of an image. If the tag is immutable and has another digest at the destination
// by now, it stays as it is, and put returns that digest as taken. The copy may have taken long,
// so the tag of an immutable or backed-up image is looked up again.
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

// changed reports tags that were put as changes.
func (e *execution) changed(j *compare.Job, put []message.Image, copied mirror.Copied, took time.Duration) {
	var changes []change.Change
	for _, image := range put {
		tag := compare.DestinationTag(image)
		if j.Had[tag] == copied.Digest {
			continue // it is a list of referrers that other referrers were added to
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

// incomplete puts the tags of a job whose referrers could not be copied. Its images are tried
// again, or have failed.
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
