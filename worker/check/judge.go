package check

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// job is one digest, with all the tags that are not up to date.
type job struct {
	image   *image // one of those with the digest
	images  []*image
	at      reference.Digest // that it has at the destination; zero: it is to be copied
	verdict verdict
	err     error
}

// verdict is what a digest needs.
type verdict int

const (
	copying verdict = iota
	tagging
	skipping
)

// judgeAll finds out what each digest needs.
func (t *task) judgeAll(ctx context.Context, destination reference.Repository, jobs []*job, empty bool) {
	var group errgroup.Group
	group.SetLimit(requests)
	for _, j := range jobs {
		if len(j.images) > 0 {
			group.Go(func() error {
				j.err = t.judge(ctx, destination, j, empty)
				return nil
			})
		}
	}
	_ = group.Wait() // the errors are in the jobs
}

// judge finds out what a digest needs, most of the time without a question.
func (t *task) judge(ctx context.Context, destination reference.Repository, j *job, empty bool) (err error) {
	absent := false
	switch {
	case !j.at.IsZero():
		j.verdict = tagging
		return nil
	case j.image.unwanted():
		j.verdict = skipping
		return nil
	case t.Absent != nil && !j.image.wanted.All():
		absent, err = t.Absent(ctx, j.image.digest, j.image.wanted)
	}
	switch {
	case err != nil:
		return err
	case absent:
		j.verdict = skipping
		return nil
	case empty:
		return nil
	}
	return t.insist(ctx, destination, t.slot(func() error { return t.seek(ctx, destination, j) }))
}

// seek asks the destination for the digest: under another name, it only has to be
// tagged. An index of just some platforms is made anew from the source's, which takes
// pulls.
func (t *task) seek(ctx context.Context, destination reference.Repository, j *job) error {
	i := j.image
	d, err := t.Mirror.Destination.Head(ctx, destination, i.digest)
	switch {
	case registry.Absent(err):
		return nil
	case err != nil:
		return err
	case !i.wanted.All() && !isImage(d.MediaType):
		return nil
	case !i.wanted.All():
		// It may have been copied to learn its platform, and left without a tag.
		wanted, err := t.Mirror.Wants(ctx, destination, i.digest, i.wanted)
		if err != nil || !wanted {
			j.verdict = skipping
			return err
		}
	}
	j.verdict, j.at = tagging, i.digest
	return nil
}

// count adds what becomes of the images of a job.
func (r *Row) count(j *job) {
	n := len(j.images)
	switch {
	case n == 0:
	case j.err != nil:
		for _, image := range j.images {
			r.Failed = append(r.Failed, failed(image.source, j.err))
		}
	case j.verdict == tagging:
		r.Tag += n
	case j.verdict == skipping:
		r.Skipped += n
		// A worker that does not remember it yet gets the index to learn it.
		r.PullsAtLeast = r.PullsAtLeast || j.image.unwanted()
	default:
		r.Copy++
		r.Tag += n - 1
		r.cost(j.image)
	}
}
