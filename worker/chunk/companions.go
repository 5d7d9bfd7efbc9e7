package chunk

import (
	"context"
	"errors"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
)

// bears notes that the destination has the content of a job, which may have companions.
func (e *execution) bears(j *compare.Job, at reference.Digest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.bearers = append(e.bearers, j.Bears(at)...)
}

// accompany brings those companions of what a round has mirrored that were not known
// before, and theirs.
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

// unaccompanied keeps an image whose companions could not be found for another try, or
// gives it up: it is not done, though it is at the destination.
func (e *execution) unaccompanied(ctx context.Context, u compare.Unaccompanied) error {
	e.tally(func(p *progress) { p.images.Total++ })
	e.mirrored.remove(u.Entry.Source, failure.Source(u.Entry, u.Image.Tag))
	if errors.Is(u.Err, errLeft) {
		e.postpone(u.Entry, []message.Image{u.Image}, 0)
		return nil
	}
	return e.failed(ctx, u.Entry, attempt{u.Image, u.Err})
}
