package check

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
)

// verify removes the images from a job that the signature policy is known to reject, and counts
// them. It returns false if none is left.
func (c counting) verify(ctx context.Context, j *compare.Job) bool {
	if c.forecast.checker.Verify == nil {
		return true
	}
	if j.Bearer != nil {
		return c.forecast.rejection(j.About()) == nil
	}
	j.Images = c.verified(ctx, j, j.Images)
	if c.forecast.checker.Signatures {
		j.Current = c.verified(ctx, j, j.Current)
	}
	return len(j.All()) > 0
}

// verified returns the images of a job that are not rejected.
func (c counting) verified(ctx context.Context, j *compare.Job, images []message.Image) (trusted []message.Image) {
	var asked []message.Image
	var tags []reference.Tag
	for _, image := range images {
		if subject, ok := selection.Companion(image.Tag.String()); ok {
			switch err := c.subject(ctx, j.Entry, subject); {
			case errors.Is(err, registry.ErrNotFound), errors.Is(err, registry.ErrHeadDenied):
				c.row.Skipped++
			case errors.Is(err, policy.ErrRejected):
				c.rejected(j, image, fmt.Errorf("it refers to %s: %w", subject, err))
			default:
				trusted = append(trusted, image)
			}
			continue
		}
		asked, tags = append(asked, image), append(tags, compare.SourceTag(j.Entry, image))
	}
	if len(asked) == 0 {
		return trusted
	}
	pulls, errs := c.ask(ctx, j.Entry, j.Digest, tags)
	unverified := false
	for i, image := range asked {
		switch {
		case errs[i] == nil:
			trusted = append(trusted, image)
			if c.forecast.checker.Signatures {
				c.row.Signed++
			}
		case errors.Is(errs[i], errPull):
			trusted, unverified = append(trusted, image), true
			c.row.Unverified++
		case errors.Is(errs[i], policy.ErrRejected):
			c.rejected(j, image, errs[i])
		default:
			c.fail(failure.Source(j.Entry, image.Tag), errs[i])
		}
	}
	if unverified { // its signatures may be manifests, too
		c.row.Pulls++
	}
	c.row.PullsAtLeast = c.row.PullsAtLeast || unverified || pulls > 0 && j.Verdict != compare.Unchanged
	return trusted
}

// ask asks the policy about a digest under each of the tags; a zero tag stands for the digest
// itself.
func (c counting) ask(ctx context.Context, r message.Repository, digest reference.Digest, tags []reference.Tag) (pulls int, errs []error) {
	_ = c.forecast.Ask(ctx, r, r.Source, func() error { // the errors are in errs
		pulls, errs = c.forecast.checker.Verify(ctx, r.Source, digest, tags)
		for _, err := range errs {
			if err != nil && mayPass(err) {
				return err
			}
		}
		return nil
	})
	return pulls, errs
}

// rejected counts a rejected image. Unless another tag of its digest is accepted, its companions
// are not mirrored.
func (c counting) rejected(j *compare.Job, image message.Image, err error) {
	c.row.Rejected = append(c.row.Rejected, Failed{Image: failure.Source(j.Entry, image.Tag), Reason: outcome.Reason(err)})
	c.forecast.mu.Lock()
	defer c.forecast.mu.Unlock()
	c.forecast.rejected[j] = err
}

// rejection returns why the policy rejects all images of a job, or nil.
func (f *forecast) rejection(j *compare.Job) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(j.All()) > 0 {
		return nil
	}
	return f.rejected[j]
}

// noteSubjects notes the images that may have companions.
func (c counting) noteSubjects(jobs []*compare.Job) {
	for _, j := range jobs {
		if j.Bearer == nil && !j.IsAboutOthers() {
			c.subjects[j.Digest] = j
		}
	}
}

// subject returns why the companions of an image are not mirrored: the policy rejects all of its
// tags, or the source does not have it. It returns nil if only a run can find that out.
func (c counting) subject(ctx context.Context, r message.Repository, subject reference.Digest) error {
	j, unknown := c.subjects[subject], false
	if j == nil {
		j, unknown = c.around(ctx, subject)
	}
	if j == nil {
		err := c.forecast.Ask(ctx, r, r.Source, func() error {
			_, err := c.forecast.checker.Mirror.Registry.Head(ctx, r.Source, subject)
			return err
		})
		if err != nil || unknown {
			return err
		}
		_, errs := c.ask(ctx, r, subject, make([]reference.Tag, 1))
		return errs[0]
	}
	if why := c.forecast.rejection(j); why != nil {
		return why
	}
	var tags []reference.Tag
	for _, image := range j.All() {
		tags = append(tags, compare.SourceTag(j.Entry, image))
	}
	_, errs := c.ask(ctx, j.Entry, j.Digest, tags)
	for _, err := range errs {
		if !errors.Is(err, policy.ErrRejected) {
			return nil
		}
	}
	return errs[0]
}

// around returns the job of an index at the destination that lists an image, or nil. unknown
// reports whether an index that is still to be copied may list it, which only a pull would show.
func (c counting) around(ctx context.Context, image reference.Digest) (index *compare.Job, unknown bool) {
	for _, j := range c.subjects {
		if j.IsImage() || c.forecast.rejection(j) != nil {
			continue
		}
		at, _ := c.forecast.comparer.Present(j)
		if at.IsZero() {
			unknown = true
			continue
		}
		var below []reference.Digest
		_ = c.forecast.Ask(ctx, j.Entry, j.Entry.Destination, func() (err error) { // after an error, a run looks up the image, too
			below, err = c.forecast.checker.Mirror.Below(ctx, j.Entry.Destination, at)
			return err
		})
		if slices.Contains(below, image) {
			return j, false
		}
	}
	return nil, unknown
}
