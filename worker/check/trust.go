package check

import (
	"context"
	"errors"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/policy"
)

// verify leaves a job with those images that the signature policy does not reject, as far as
// that is known, and counts the others. It returns false if none is left.
func (c counting) verify(ctx context.Context, j *compare.Job) bool {
	if c.forecast.checker.Verify == nil {
		return true
	}
	if j.Bearer != nil {
		return !c.forecast.isRejected(j.About())
	}
	j.Images = c.verified(ctx, j, j.Images)
	if c.forecast.checker.Signatures {
		j.Current = c.verified(ctx, j, j.Current)
	}
	if len(j.All()) == 0 {
		c.forecast.reject(j)
		return false
	}
	return true
}

// verified returns those images of a job that are not rejected. A companion of another image,
// and comes without it, depends on that, which a run finds out.
func (c counting) verified(ctx context.Context, j *compare.Job, images []message.Image) (trusted []message.Image) {
	var asked []message.Image
	var tags []reference.Tag
	for _, image := range images {
		if _, ok := selection.Companion(image.Tag.String()); ok {
			trusted = append(trusted, image)
			continue
		}
		asked, tags = append(asked, image), append(tags, compare.SourceTag(j.Entry, image))
	}
	if len(asked) == 0 {
		return trusted
	}
	var errs []error
	pulls := 0
	_ = c.forecast.Ask(ctx, j.Entry, j.Entry.Source, func() error { // the errors are in errs
		pulls, errs = c.forecast.checker.Verify(ctx, j.Entry.Source, j.Digest, tags)
		for _, err := range errs {
			if err != nil && mayPass(err) {
				return err
			}
		}
		return nil
	})
	unverified := false
	for i, image := range asked {
		switch {
		case errs[i] == nil:
			trusted = append(trusted, image)
			if c.forecast.checker.Signatures {
				c.row.Signed++
			}
		case errors.Is(errs[i], ErrPull):
			trusted, unverified = append(trusted, image), true
			c.row.Unverified++
		case errors.Is(errs[i], policy.ErrRejected):
			c.row.Rejected = append(c.row.Rejected, Failed{Image: failure.Source(j.Entry, image.Tag), Reason: outcome.Reason(errs[i])})
		default:
			c.fail(failure.Source(j.Entry, image.Tag), errs[i])
		}
	}
	if unverified { // its manifest, and signatures that are manifests, too
		c.row.Pulls++
	}
	c.row.PullsAtLeast = c.row.PullsAtLeast || unverified || pulls > 0 && j.Verdict != compare.Unchanged
	return trusted
}

// reject notes that nothing of a job is mirrored. Then nothing about it is.
func (f *forecast) reject(j *compare.Job) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rejected[j] = true
}

func (f *forecast) isRejected(j *compare.Job) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rejected[j]
}
