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

// accompany brings the companions of what a round has mirrored, and theirs.
func (e *execution) accompany(ctx context.Context) error {
	for {
		start := e.worker.now()
		found := e.comparer.Companions(e.work, e.bearers)
		e.bearers = nil
		for _, u := range found.Failed {
			if err := e.unaccompanied(ctx, u); err != nil {
				return err
			}
		}
		if len(found.Entries) == 0 {
			return nil
		}
		for i, r := range found.Entries {
			e.tally(func(p *progress) { p.images.Total += len(r.Images) })
			var err error
			if found.Entries[i].Images, err = e.lookUp(ctx, r, r.Images); err != nil {
				return err
			}
		}
		jobs, err := e.compare(found.Entries, start)
		if err == nil {
			err = e.carryOut(ctx, jobs)
		}
		if err != nil {
			return err
		}
	}
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
