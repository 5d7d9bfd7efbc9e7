package compare

import (
	"context"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/platform"
)

// decideAll gives a verdict to the jobs that have none. Jobs with the same content share one
// decision. empty reports whether the destination has no tags.
func (c *Comparer) decideAll(ctx context.Context, jobs []*Job, empty bool) error {
	byContent := map[content][]*Job{}
	var first []*Job
	for _, j := range jobs {
		if j.Verdict != 0 {
			continue
		}
		key := contentOf(j.Entry, j.Digest)
		if byContent[key] == nil {
			first = append(first, j)
		}
		byContent[key] = append(byContent[key], j)
	}
	errs := make([]error, len(first))
	atOnce(len(first), func(i int) { errs[i] = c.decide(ctx, first[i], empty) })
	for i, j := range first {
		if errs[i] != nil {
			return errs[i]
		}
		if j.Verdict == Copy {
			c.Hold(j, reference.Digest{})
		}
		for _, other := range byContent[contentOf(j.Entry, j.Digest)][1:] {
			other.Verdict, other.Why, other.At = j.Verdict, j.Why, j.At
			if j.Verdict == Copy {
				other.Verdict = Tag
			}
		}
	}
	return nil
}

// Update renews the verdict of a job: another job may have brought its content meanwhile, or
// may have failed to bring it.
func (c *Comparer) Update(ctx context.Context, j *Job) error {
	if !j.IsLacking() {
		return nil
	}
	if at, _ := c.Present(j); !at.IsZero() {
		j.Verdict, j.At = Tag, at
		return nil
	}
	if j.Verdict == Copy {
		return nil
	}
	c.Forget(j)
	return c.decide(ctx, j, false)
}

// decide gives a job a verdict, mostly without a request.
func (c *Comparer) decide(ctx context.Context, j *Job, empty bool) error {
	at, coming := c.Present(j)
	wanted := Wanted(j.Entry)
	switch {
	case coming:
		j.Verdict, j.At = Tag, at
		return nil
	case c.Predict && j.Unwanted():
		j.Verdict, j.Why = Skip, platform.ErrNoPlatform
		return nil
	case !wanted.All():
		if absent, err := c.Notes.Absent(ctx, j.Digest, wanted); err != nil || absent {
			j.Verdict, j.Why = Skip, platform.ErrNoPlatform
			return err
		}
	}
	j.Verdict = Copy
	if empty || !wanted.All() && types.MediaType(j.MediaType).IsIndex() {
		return nil // the digest of an index of some platforms is known only after a pull
	}
	if err := c.Asker.Ask(ctx, j.Entry, j.Entry.Destination, func() error { return c.seek(ctx, j, wanted) }); err != nil {
		j.Verdict, j.Why = Failed, err
	}
	return nil
}

// seek looks up the digest at the destination.
func (c *Comparer) seek(ctx context.Context, j *Job, wanted platform.Wanted) error {
	destination := j.Entry.Destination
	d, held, err := c.Mirror.Holds(ctx, destination, j.Digest)
	if err != nil || !held || !wanted.All() && !isImage(d.MediaType) {
		return err
	}
	if !wanted.All() {
		// An earlier run may have copied it only to find out its platform.
		wants, err := c.Mirror.HasPlatform(ctx, destination, j.Digest, wanted)
		if err != nil {
			return err
		}
		if !wants {
			j.Verdict, j.Why = Skip, platform.ErrNoPlatform
			return nil
		}
	}
	j.Verdict, j.At = Tag, j.Digest
	return nil
}
