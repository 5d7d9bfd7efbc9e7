package compare

import (
	"context"
	"fmt"
)

// Verdict is what the images of a job need. To add one, add a constant, a method of Cases and
// a case of Job.Handle; what does not handle the new verdict no longer compiles. If nothing is
// mirrored because of it, add it to Job.IsSkipped.
type Verdict int

// The verdicts. A job that was not compared has the zero Verdict.
const (
	// Copy means that the destination lacks the content.
	Copy Verdict = iota + 1
	// Tag means that the destination lacks only the tags. It has the content under another
	// name, or will have it when an earlier job of the Comparer is done.
	Tag
	// Unchanged means that all tags are up to date.
	Unchanged
	// Skip means that the content has none of the wanted platforms. Job.Why is the reason.
	Skip
	// Keep means that the source has moved an immutable tag. The destination keeps its
	// digest. Job.Why has both digests.
	Keep
	// Wait means that the tag has not had its digest for the minimum age. The destination
	// keeps its digest until Job.Until.
	Wait
	// Failed means that the source or the destination could not be asked. Job.Why is the
	// error.
	Failed
)

// IsSkipped reports whether nothing of the job is mirrored, because of its own verdict or
// because it is a companion of a skipped job.
func (j *Job) IsSkipped() bool {
	switch j.Verdict {
	case Skip, Keep, Wait:
		return true
	}
	return j.Bearer != nil && j.Bearer.IsSkipped()
}

// Cases handles jobs, with one method for each verdict.
type Cases interface {
	Copy(ctx context.Context, j *Job) error
	Tag(ctx context.Context, j *Job) error
	Unchanged(ctx context.Context, j *Job) error
	Skip(ctx context.Context, j *Job) error
	Keep(ctx context.Context, j *Job) error
	Wait(ctx context.Context, j *Job) error
	Failed(ctx context.Context, j *Job) error
}

// Handle calls the method of the job's verdict.
func (j *Job) Handle(ctx context.Context, c Cases) error {
	switch j.Verdict {
	case Copy:
		return c.Copy(ctx, j)
	case Tag:
		return c.Tag(ctx, j)
	case Unchanged:
		return c.Unchanged(ctx, j)
	case Skip:
		return c.Skip(ctx, j)
	case Keep:
		return c.Keep(ctx, j)
	case Wait:
		return c.Wait(ctx, j)
	case Failed:
		return c.Failed(ctx, j)
	}
	panic(fmt.Sprintf("compare: no case for verdict %d", j.Verdict))
}
