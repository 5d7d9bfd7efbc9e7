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

// compare returns what the repositories' images and their companions need. The tags were
// looked up at the given time or later.
func (e *execution) compare(all []message.Repository, resolved time.Time) ([]*compare.Job, error) {
	found, err := e.comparer.Compare(e.work, all)
	return e.compared(found, resolved), err
}

// compared counts companions, and returns the jobs of a comparison. Companions that could
// not be found are looked for again when their bearer is at the destination.
func (e *execution) compared(found compare.Comparison, resolved time.Time) []*compare.Job {
	e.tally(func(p *progress) { p.images.Total += found.Companions })
	for _, j := range found.Jobs {
		j.Resolved = resolved
		if !j.At.IsZero() {
			e.worker.Registries.Known(j.Entry.Source, j.Entry.Destination, j.At)
		}
	}
	return found.Jobs
}

// carryOut carries out the verdicts on jobs, those of companions last: if an image has none of
// the wanted platforms, they are not mirrored either.
func (e *execution) carryOut(ctx context.Context, jobs []*compare.Job) error {
	var companions []*compare.Job
	e.noteSubjects(jobs)
	jobs = slices.DeleteFunc(slices.Clone(jobs), func(j *compare.Job) bool {
		last := j.Bearer != nil || !e.mirror.IsTrusting() && j.IsAboutOthers() && !j.Digest.IsZero()
		if last {
			companions = append(companions, j)
		}
		return last
	})
	if err := e.carryOutNow(ctx, jobs); err != nil {
		return err
	}
	return e.carryOutNow(ctx, e.drop(companions, func(j *compare.Job) bool {
		needless := j.Bearer != nil && (j.IsSkipped() || e.isDistrusted(j))
		if needless {
			e.comparer.Unexpect(j) // an index around the image may bring them, or its next try
		}
		return needless
	}))
}

// drop takes jobs out that are not to be carried out, and returns the others.
func (e *execution) drop(jobs []*compare.Job, needless func(*compare.Job) bool) []*compare.Job {
	return slices.DeleteFunc(jobs, func(j *compare.Job) bool {
		if !needless(j) {
			return false
		}
		e.tally(func(p *progress) { p.images.Total -= len(j.All()) })
		return true
	})
}

// carryOutNow begins with the jobs that take no transfer.
func (e *execution) carryOutNow(ctx context.Context, jobs []*compare.Job) error {
	var failed, transfers []*compare.Job
	for _, j := range jobs {
		switch {
		case j.Verdict == compare.Failed:
			failed = append(failed, j)
		case j.Verdict == compare.Skip, j.Verdict == compare.Keep, j.Verdict == compare.Wait, j.Verdict == compare.Unchanged && !compare.BringsReferrers(j.Entry):
			if err := j.Handle(ctx, e); err != nil {
				return err
			}
		default:
			transfers = append(transfers, j)
		}
	}
	for len(failed) > 0 {
		r := failed[0].Entry
		var images []attempt
		failed = slices.DeleteFunc(failed, func(j *compare.Job) bool {
			same := compare.EntryOf(j.Entry) == compare.EntryOf(r)
			if same {
				images = append(images, attemptsOf(j.Images, j.Why)...)
			}
			return same
		})
		if _, err := e.settle(ctx, r, images); err != nil {
			return err
		}
	}
	kin := families
	if e.mirror.Builtin {
		kin = sameContent
	}
	return e.worker.copies.do(transfers, kin, e.worker.Concurrency, func(j *compare.Job) error { return e.begin(ctx, j) })
}

// begin carries out a job when it is its turn, unless nothing is to be begun any more.
func (e *execution) begin(ctx context.Context, j *compare.Job) error {
	r := j.Entry
	switch {
	case e.stopping(), e.isLimited(r.Source), e.isLimited(r.Destination):
		e.postpone(r, j.All(), 0)
		return nil
	case j.Digest.IsZero():
		return e.lookUpAndBegin(ctx, j)
	}
	if err := e.lookAgain(ctx, j); err != nil || len(j.All()) == 0 {
		return err
	}
	if err := e.comparer.Update(e.work, j); err != nil {
		return err
	}
	return j.Handle(ctx, e)
}

// lookUpAndBegin carries out a job whose digest was not looked up before.
func (e *execution) lookUpAndBegin(ctx context.Context, j *compare.Job) error {
	resolved, r := e.worker.now(), j.Entry
	var err error
	if r.Images, err = e.refresh(ctx, r, j.Images); err != nil {
		return err
	}
	jobs, err := e.compare([]message.Repository{r}, resolved)
	for _, j := range jobs {
		if err == nil {
			err = e.begin(ctx, j)
		}
	}
	return err
}

// Copy implements compare.Cases. The first image of the job counts as copied, whichever job
// has brought the content meanwhile.
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

// Skip implements compare.Cases. What is not to be mirrored has not failed any more.
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

// Keep implements compare.Cases. That a source moves a tag which it promised not to move may be
// an attack, so it is logged as a warning.
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

// Wait implements compare.Cases. The next run that is late enough mirrors the images.
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

// complete brings the content of a job to the destination, then its referrers, then puts
// its tags. Tags that were looked up long ago are looked up again before they are put.
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

// transfer brings what the destination lacks of a job's content and of its referrers.
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

// note records what has become of an image or, without a tag and a digest, of the listing
// of the repository.
func (e *execution) note(r message.Repository, image message.Image, tag catalog.Tag) {
	tag.Name = compare.DestinationTag(image)
	tag.Checked, tag.Pinned = e.worker.now().UTC(), !r.Digest.IsZero()
	e.delivery.Observer.Seen(r, tag)
}

// seen notes that nothing of the image is missing at the destination.
func (e *execution) seen(r message.Repository, tag reference.Tag) {
	e.entries.found(r)
	e.mirrored.add(r.Source, failure.Source(r, tag))
}

// lookAgain leaves a job with the images whose tags still have its digest, if they were
// looked up long ago. The others go to the next round.
func (e *execution) lookAgain(ctx context.Context, j *compare.Job) error {
	now := e.worker.now()
	if now.Sub(j.Resolved) < staleAfter {
		return nil
	}
	images, err := e.refresh(ctx, j.Entry, j.Images)
	if err != nil {
		return err
	}
	// What is tagged already stays as it is, whatever has happened since.
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

// gone handles a digest that the source does not have any more. A tag that has moved is
// tried with its new digest, which counts as a try. Any other image cannot be copied.
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
