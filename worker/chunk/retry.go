package chunk

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/outcome"
)

// attempt is an image with the error of its last try.
type attempt struct {
	image message.Image
	err   error
}

// attemptsOf gives all images the same error.
func attemptsOf(images []message.Image, err error) []attempt {
	failed := make([]attempt, len(images))
	for i, image := range images {
		failed[i] = attempt{image, err}
	}
	return failed
}

// failed handles images whose try has failed: they are tried again, or recorded as failed.
func (e *execution) failed(ctx context.Context, r message.Repository, failed ...attempt) error {
	var final []attempt
	for _, f := range failed {
		attempts := f.image.Attempts
		after, again := e.retry(r, f.err, &f.image.Attempts)
		if !again && e.doubtful(f.err) {
			e.doubt(doubt{repository: r, failed: f})
			continue
		}
		if !again {
			final = append(final, f)
			continue
		}
		level := slog.LevelInfo
		if f.image.Attempts == attempts { // its registry is closed or limited, which was logged once
			level = slog.LevelDebug
		}
		e.log.Log(ctx, level, "an image will be retried", "image", failure.Source(r, f.image.Tag), "attempts", f.image.Attempts, "reason", outcome.Reason(f.err))
		e.postpone(r, []message.Image{f.image}, after)
	}
	if len(final) == 0 {
		return nil
	}
	return e.giveUp(ctx, r, final...)
}

// retry reports whether a failed try is to be repeated, and after which time. It increments
// attempts if the try counts.
func (e *execution) retry(r message.Repository, err error, attempts *int) (after time.Duration, again bool) {
	switch outcome.Classify(err) {
	case outcome.Interrupted:
		return 0, true
	case outcome.Limited:
		// A limit never fails an image.
		return e.limit(r, err), true
	}
	if after, away := e.blamed(r, err); away {
		return after, true
	}
	*attempts++
	if outcome.Classify(err) == outcome.Transient {
		return e.worker.Backoff(*attempts), *attempts < e.worker.MaxAttempts
	}
	// If the registry refuses other images the same way, it is away, and the image waits for it.
	return secondLook, e.doubtful(err) && *attempts == 1 && e.worker.MaxAttempts > 1
}

// secondLook is the time before the second and last try of an image that a registry has refused.
// Meanwhile the worker tries other images.
const secondLook = 10 * time.Second

// giveUp records images of one repository as failed, with one write. It does so before the chunk
// can be acknowledged.
func (e *execution) giveUp(ctx context.Context, r message.Repository, final ...attempt) error {
	if !final[0].image.Tag.IsZero() {
		e.entries.found(r)
	}
	record := failure.Of(e.delivery.Chunk, r, []message.Image{final[0].image}, outcome.Reason(final[0].err))
	for _, f := range final[1:] {
		record.Images = append(record.Images, failure.Of(e.delivery.Chunk, r, []message.Image{f.image}, outcome.Reason(f.err)).Images...)
	}
	for _, f := range record.Images {
		e.log.Warn("an image failed", "image", f.Source, "attempts", f.Attempts, "reason", f.Reason)
	}
	if err := e.worker.Failures.Add(ctx, e.delivery.Chunk.Name, record); err != nil {
		return err
	}
	for _, f := range final {
		e.note(r, f.image, catalog.Tag{State: run.Failed, Source: f.image.Digest, Why: outcome.Reason(f.err)})
	}
	e.count(run.Failed, len(final))
	return nil
}

// postpone puts off images, or a repository that could not be resolved, to the next round.
func (e *execution) postpone(r message.Repository, images []message.Image, after time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.after = max(e.after, after)
	for i := range e.next {
		n := &e.next[i]
		if len(images) > 0 && len(n.Images) > 0 && compare.EntryOf(*n) == compare.EntryOf(r) {
			n.Images = append(n.Images, images...)
			return
		}
	}
	r.Images = images
	e.next = append(e.next, r)
}

// pause waits for the time that the images of the next round must wait. It returns false if that
// round is not to be in this delivery.
func (e *execution) pause(ctx context.Context) bool {
	if e.after > maxPause || len(e.limited) > 0 || e.stopping() {
		return false
	}
	timer := time.NewTimer(e.after)
	defer timer.Stop()
	select {
	case <-timer.C:
		return !e.stopping()
	case <-e.delivery.Stopping:
	case <-e.work.Done():
	case <-ctx.Done():
	}
	return false
}

// stopping reports whether the worker begins nothing new.
func (e *execution) stopping() bool {
	select {
	case <-e.delivery.Stopping:
		return true
	default:
		return e.work.Err() != nil
	}
}

// Backoff returns the pause before the next try: 1, 2, 4 … seconds, at most 5 minutes. It adds or
// subtracts up to a quarter, so that workers do not try at the same moment.
func Backoff(attempt int) time.Duration {
	const most = 5 * time.Minute
	d := min(most, time.Second<<min(attempt-1, 16))
	return jitter(d)
}

func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}
