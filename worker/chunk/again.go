package chunk

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/worker/outcome"
)

// try is an image with the reason why it was not mirrored.
type try struct {
	image message.Image
	err   error
}

// tries gives all images the same reason.
func tries(images []message.Image, err error) []try {
	failed := make([]try, len(images))
	for i, image := range images {
		failed[i] = try{image, err}
	}
	return failed
}

// failed keeps images for another try, or gives them up.
func (t *task) failed(ctx context.Context, r message.Repository, failed ...try) error {
	var final []try
	for _, f := range failed {
		after, again := t.retry(r, f.err, &f.image.Attempts)
		if !again && t.doubtful(f.err) {
			t.doubt(doubt{repository: r, try: f})
			continue
		}
		if !again {
			final = append(final, f)
			continue
		}
		t.log.Info("an image will be retried", "image", failure.Source(r, f.image.Tag), "attempts", f.image.Attempts, "reason", outcome.Reason(f.err))
		t.later(r, []message.Image{f.image}, after)
	}
	if len(final) == 0 {
		return nil
	}
	return t.giveUp(ctx, r, final...)
}

// retry decides what becomes of a try that failed: true means that it is to be
// tried again, after the time that is returned. attempts is counted up where the
// try counts as one.
func (t *task) retry(r message.Repository, err error, attempts *int) (after time.Duration, again bool) {
	switch outcome.Classify(err) {
	case outcome.Interrupted:
		return 0, true
	case outcome.Limited:
		// Being limited never fails an image.
		return t.limit(r, err), true
	}
	if after, away := t.blamed(r, err); away {
		return after, true
	}
	*attempts++
	if outcome.Classify(err) == outcome.Transient {
		return t.Backoff(*attempts), *attempts < t.MaxAttempts
	}
	// Others may be refused the same way: then it is the registry, and is waited for.
	return secondLook, t.doubtful(err) && *attempts == 1 && t.MaxAttempts > 1
}

// secondLook is when what a registry has refused is tried for the second and last time.
// By then the worker has come to other images.
const secondLook = 10 * time.Second

// giveUp records images as failed, before anything else happens to the chunk. All
// of a repository go into one record, and cost one write.
func (t *task) giveUp(ctx context.Context, r message.Repository, final ...try) error {
	if !final[0].image.Tag.IsZero() {
		t.entries.found(r)
	}
	record := failure.Of(t.Chunk, r, []message.Image{final[0].image}, outcome.Reason(final[0].err))
	for _, f := range final[1:] {
		record.Images = append(record.Images, failure.Of(t.Chunk, r, []message.Image{f.image}, outcome.Reason(f.err)).Images...)
	}
	for _, f := range record.Images {
		t.log.Warn("an image failed", "image", f.Source, "attempts", f.Attempts, "reason", f.Reason)
	}
	if err := t.Failures.Add(ctx, t.Chunk.Name, record); err != nil {
		return err
	}
	t.count("failed", len(final), func(p *progress) { p.images.Failed += len(final) })
	return nil
}

// later keeps images, or a repository that could not be resolved, for the next
// round.
func (t *task) later(r message.Repository, images []message.Image, after time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.after = max(t.after, after)
	for i := range t.next {
		n := &t.next[i]
		if len(images) > 0 && len(n.Images) > 0 && sameEntry(*n, r) {
			n.Images = append(n.Images, images...)
			return
		}
	}
	r.Images = images
	t.next = append(t.next, r)
}

// again reports whether there is to be another round in this delivery, after the
// pause that the tries need.
func (t *task) again(ctx context.Context) bool {
	if t.after > maxPause || len(t.limited) > 0 || t.stopping() {
		return false
	}
	timer := time.NewTimer(t.after)
	defer timer.Stop()
	select {
	case <-timer.C:
		return !t.stopping()
	case <-t.Stopping:
	case <-t.work.Done():
	case <-ctx.Done():
	}
	return false
}

// stopping reports whether nothing new is to be begun.
func (t *task) stopping() bool {
	select {
	case <-t.Stopping:
		return true
	default:
		return t.work.Err() != nil
	}
}

// Backoff is the pause before the next try: 1, 2, 4 … seconds, a quarter more or
// less so that the tries of many workers spread, at most 5 minutes.
func Backoff(attempt int) time.Duration {
	const most = 5 * time.Minute
	d := min(most, time.Second<<min(attempt-1, 16))
	return jitter(d)
}

func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}
