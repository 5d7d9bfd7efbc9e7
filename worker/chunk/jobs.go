package chunk

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
)

// compare returns the jobs of repositories, companions included. resolved is the earliest time at
// which their tags were looked up.
func (e *execution) compare(all []message.Repository, resolved time.Time) ([]*compare.Job, error) {
	found, err := e.comparer.Compare(e.work, all)
	return e.compared(found, resolved), err
}

// compared counts companions, and returns the jobs of a comparison. Companions that were not
// found are looked for again when their image is at the destination.
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

// carryOut carries out the verdicts on jobs, companions last. The companions of an image are not
// mirrored if the image has no wanted platform.
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
			e.comparer.Unexpect(j) // an index that lists the image may bring them, or the next try
		}
		return needless
	}))
}

// drop returns the jobs that are not needless.
func (e *execution) drop(jobs []*compare.Job, needless func(*compare.Job) bool) []*compare.Job {
	return slices.DeleteFunc(jobs, func(j *compare.Job) bool {
		if !needless(j) {
			return false
		}
		e.tally(func(p *progress) { p.images.Total -= len(j.All()) })
		return true
	})
}

// carryOutNow carries out the verdicts on jobs. Jobs that transfer nothing come first.
func (e *execution) carryOutNow(ctx context.Context, jobs []*compare.Job) error {
	var failed, transfers []*compare.Job
	for _, j := range jobs {
		switch {
		case j.Verdict == compare.Failed:
			failed = append(failed, j)
		case j.IsSkipped(), j.Verdict == compare.Unchanged && !compare.BringsReferrers(j.Entry):
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
	b := e.worker.copies.add(transfers, e.kin(ctx))
	e.delivery.Observer.Compared()
	return e.worker.copies.do(b, e.worker.Concurrency, func(j *compare.Job) error { return e.begin(ctx, j) })
}

// kin returns the families of a job.
func (e *execution) kin(ctx context.Context) func(*compare.Job) []string {
	shares := map[reference.Repository]bool{}
	return func(j *compare.Job) []string {
		source := j.Entry.Source
		if _, known := shares[source]; !known {
			shares[source] = e.mirror.SharesBlobs(ctx, source)
		}
		if shares[source] {
			return sameContent(j)
		}
		return families(j)
	}
}

// begin carries out a job when it is its turn. It postpones the job if the worker stops or a
// registry is limited.
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

// lookUpAndBegin carries out a job whose digest is not known yet.
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

// bears notes that the destination has the image of a job, whose companions may follow.
func (e *execution) bears(j *compare.Job, at reference.Digest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.bearers = append(e.bearers, j.Bears(at)...)
}

// accompany mirrors the companions that were found only when their images were mirrored, and the
// companions of these companions.
func (e *execution) accompany(ctx context.Context) error {
	for len(e.bearers) > 0 {
		start, bearers := e.worker.now(), e.bearers
		e.bearers = nil
		found, err := e.comparer.Accompany(e.work, bearers)
		if err != nil {
			return err
		}
		for _, u := range found.Failed {
			if err := e.unaccompanied(ctx, u); err != nil {
				return err
			}
		}
		if err := e.carryOut(ctx, e.compared(found, start)); err != nil {
			return err
		}
	}
	return nil
}

// unaccompanied handles an image whose companions could not be looked up. The image is not done,
// even though the destination has it: it is tried again, or has failed.
func (e *execution) unaccompanied(ctx context.Context, u compare.Unaccompanied) error {
	e.tally(func(p *progress) { p.images.Total++ })
	e.mirrored.remove(u.Entry.Source, failure.Source(u.Entry, u.Image.Tag))
	if errors.Is(u.Err, errLeft) {
		e.postpone(u.Entry, []message.Image{u.Image}, 0)
		return nil
	}
	return e.failed(ctx, u.Entry, attempt{u.Image, u.Err})
}

const (
	// partCopies is how many copies a part has. It is some minutes of work for one worker, so
	// that all workers end at about the same time.
	partCopies = 40
	// maxCopies is the largest number of copies that is not split. Splitting little more than
	// one part is not worth the messages.
	maxCopies = 2 * partCopies
)

// parts divides jobs into parts. It divides no job, because two workers would pull the same
// image.
func parts(jobs []*compare.Job) [][]message.Repository {
	var all [][]message.Repository
	for start := 0; start < len(jobs); start += partCopies {
		var part []message.Repository
		for _, j := range jobs[start:min(start+partCopies, len(jobs))] {
			if n := len(part); n > 0 && compare.EntryOf(part[n-1]) == compare.EntryOf(j.Entry) {
				part[n-1].Images = append(part[n-1].Images, j.All()...)
				continue
			}
			r := j.Entry
			r.Images = j.All()
			part = append(part, r)
		}
		all = append(all, part)
	}
	return all
}
