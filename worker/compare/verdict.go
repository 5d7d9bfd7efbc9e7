package compare

import (
	"context"
	"fmt"
)

// Verdict is what the images of a job need. To add one, add a constant, a method of Cases
// and a case of Job.Handle: what does not handle it yet no longer compiles.
type Verdict int

// The zero Verdict is of a job that was not compared.
const (
	// Copy means that the destination lacks the content.
	Copy Verdict = iota + 1
	// Tag means that the destination has the content under another name, or will have it
	// as soon as an earlier job of the Comparer is done. It lacks only the tags.
	Tag
	// Unchanged means that all tags are up to date.
	Unchanged
	// Skip means that the list wants nothing of the content. Job.Why says why.
	Skip
	// Keep means that the source has moved an immutable tag, and that the destination keeps
	// what it has. Job.Why is an ErrImmutable with both digests.
	Keep
	// Wait means that the tag has not had its digest for long enough. The destination keeps
	// what it has until Job.Until.
	Wait
	// Failed means that it could not be found out. Job.Why is the error.
	Failed

	verdicts = iota // how many there are
)

func (v Verdict) String() string {
	if v < 0 || int(v) > verdicts {
		return fmt.Sprintf("verdict %d", int(v))
	}
	return [...]string{"not compared", "copy", "tag", "unchanged", "skip", "keep", "wait", "failed"}[v]
}

// Cases handles the jobs of each verdict.
type Cases interface {
	Copy(ctx context.Context, j *Job) error
	Tag(ctx context.Context, j *Job) error
	Unchanged(ctx context.Context, j *Job) error
	Skip(ctx context.Context, j *Job) error
	Keep(ctx context.Context, j *Job) error
	Wait(ctx context.Context, j *Job) error
	Failed(ctx context.Context, j *Job) error
}

// Handle calls the method that is for the job's verdict.
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
	panic(fmt.Sprintf("compare: no case for %v", j.Verdict))
}
