package chunk

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// resolveAll resolves repositories to images, and looks up digests that may be old.
func (e *execution) resolveAll(ctx context.Context, todo []message.Repository) ([]message.Repository, error) {
	if err := e.expectCounts(ctx, todo); err != nil {
		return nil, err
	}
	resolved := make([]message.Repository, len(todo))
	missed := make([][]attempt, len(todo))
	var group errgroup.Group
	group.SetLimit(requests)
	for i, r := range todo {
		group.Go(func() error {
			var err error
			switch {
			case e.stopping(), e.isLimited(r.Source):
				e.postpone(r, r.Images, 0)
			case len(r.Images) == 0:
				resolved[i], missed[i], err = e.resolve(ctx, r)
			default:
				resolved[i] = r
				resolved[i].Images, err = e.known(ctx, r)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	// They come last: if one must wait for its registry, so must all that is not resolved yet.
	for i, tries := range missed {
		if err := e.failed(ctx, resolved[i], tries...); err != nil {
			return nil, err
		}
	}
	return resolved, nil
}

// expectCounts reads the notes about all listings of a round with one request.
func (e *execution) expectCounts(ctx context.Context, todo []message.Repository) error {
	var sources []reference.Repository
	for _, r := range todo {
		if _, known := e.counts.Load(r.Source); !known && len(r.Images) == 0 && compare.IsOpen(r) && !e.isLimited(r.Source) {
			sources = append(sources, r.Source)
		}
	}
	if len(sources) == 0 {
		return nil
	}
	noted, err := e.worker.Notes.AllCounted(ctx, sources)
	for _, source := range sources {
		if err == nil {
			e.counts.Store(source, noted[source])
		}
	}
	return err
}

// resolve lists a repository at its source. It returns the repository with its images, and the
// images that could not be looked up.
func (e *execution) resolve(ctx context.Context, r message.Repository) (message.Repository, []attempt, error) {
	known, err := e.comparer.Known(ctx, r)
	if err != nil {
		return message.Repository{}, nil, err
	}
	found, err := e.resolver.Resolve(e.work, r, known)
	e.tally(func(p *progress) { p.pulls += found.Pulls })
	if err != nil {
		return message.Repository{}, nil, e.unresolved(ctx, r, err)
	}
	if len(found.Vanished) > 0 {
		denied := &registry.Error{Op: registry.OpHead, Repository: r.Source, Reference: found.Vanished[0], Err: registry.ErrNotFound}
		if after, away := e.blamed(r, denied); away {
			e.postpone(r, nil, after)
			return message.Repository{}, nil, nil
		}
	}
	if err := e.weigh(ctx, r, &found); err != nil {
		return message.Repository{}, nil, err
	}
	if found.Unselected != "" {
		e.log.Warn("the selection matches no tag of a repository", "repository", r.Source, "reason", found.Unselected)
	}
	e.entries.note(r, func(s *entryState) {
		s.listed, s.invalid = true, found.Invalid
		if len(found.Selected) > 0 {
			s.listing = listingOf(r, found)
		}
	})
	r.Images = e.comparer.Resolved(r, found)
	e.tally(func(p *progress) {
		p.images.Total += len(r.Images) + len(found.Missed) + len(found.Vanished) + len(found.Skipped)
	})
	if compare.IsOpen(r) {
		e.note(r, message.Image{}, catalog.Tag{})
	}
	e.count(run.Skipped, len(found.Skipped))
	for _, tag := range found.Skipped {
		e.note(r, message.Image{Tag: tag}, catalog.Tag{State: run.Skipped, Why: "for Windows only"})
	}
	if len(found.Skipped) > 0 || len(r.Images) < len(found.Images) { // the others belong to another entry
		e.entries.found(r)
	}
	for _, tag := range found.Vanished {
		e.vanished(r, tag)
	}
	if !e.delivery.Chunk.Republished {
		if err := e.worker.Notes.Resolved(ctx, e.delivery.Chunk, r); err != nil {
			return message.Repository{}, nil, err
		}
	}
	missed := make([]attempt, len(found.Missed))
	for i, m := range found.Missed {
		missed[i] = attempt{message.Image{Tag: m.Tag}, m.Err}
		if errors.Is(m.Err, registry.ErrLimited) {
			e.limit(r, m.Err)
		}
	}
	return r, missed, nil
}

// listingOf returns the tags of a listing. Companions count as selected while they are listed.
func listingOf(r message.Repository, found resolve.Result) holding.Listing {
	l := holding.Listing{Source: r.Source, Tags: map[reference.Tag]bool{}, Whole: found.All != nil}
	for _, tag := range found.All {
		_, l.Tags[tag] = selection.Companion(tag.String())
	}
	for _, tag := range found.Selected {
		l.Tags[tag] = true
	}
	return l
}

// unresolved handles a repository that could not be resolved: it is tried again, or has failed.
func (e *execution) unresolved(ctx context.Context, r message.Repository, err error) error {
	if after, again := e.retry(r, err, &r.Attempts); again {
		e.log.Info("a repository will be listed again", "repository", r.Source, "attempts", r.Attempts, "reason", outcome.Reason(err))
		e.postpone(r, nil, after)
		return nil
	}
	itself := attempt{message.Image{Tag: r.Tag, Digest: r.Digest, Attempts: r.Attempts}, err}
	if e.doubtful(err) {
		e.doubt(doubt{repository: r, failed: itself, listing: true})
		return nil
	}
	e.tally(func(p *progress) { p.images.Total++ })
	return e.giveUp(ctx, r, itself)
}

// weigh compares a listing with the one before. If it has far fewer tags, it is invalid. If not,
// weigh notes its length and the tags that have vanished.
func (e *execution) weigh(ctx context.Context, r message.Repository, found *resolve.Result) error {
	if !compare.IsOpen(r) {
		return nil
	}
	last, err := e.counted(ctx, r.Source)
	if err != nil {
		return err
	}
	if few := compare.Few(r, *found, last); few != nil {
		found.Invalid, found.Unselected = few, ""
	}
	if errors.Is(found.Invalid, resolve.ErrFewTags) {
		return nil
	}
	if found.Whole {
		e.unlisted(ctx, r, found.All)
	}
	return e.worker.Notes.NoteCounted(ctx, r.Source, last, found.Count, found.Whole)
}

// known returns images with current digests. The digests of a fresh delivery are current; others
// are looked up, now or when it is their turn.
func (e *execution) known(ctx context.Context, r message.Repository) ([]message.Image, error) {
	var young, unknown []message.Image
	for _, image := range r.Images {
		if !image.Digest.IsZero() && e.first && e.delivery.Fresh {
			young = append(young, image)
		} else {
			unknown = append(unknown, image)
		}
	}
	if e.isLazy() {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, image := range unknown {
			e.lazy = append(e.lazy, &compare.Job{Entry: r, Images: []message.Image{image}})
		}
		return young, nil
	}
	found, err := e.refresh(ctx, r, unknown)
	return append(young, found...), err
}

// isLazy reports whether each digest is looked up when it is the image's turn. Most remainders
// wait for a budget that is soon spent again, and then most look-ups would be wasted. A chunk that
// may have to be split needs all of its digests at once.
func (e *execution) isLazy() bool {
	return e.first && e.delivery.Remainder && (e.worker.Alone || e.delivery.Chunk.Images() <= maxCopies)
}

// refresh looks up tags again, and returns the images with their current digests. Images that the
// list pins by digest stay as they are.
func (e *execution) refresh(ctx context.Context, r message.Repository, images []message.Image) ([]message.Image, error) {
	if !r.Digest.IsZero() {
		return images, nil
	}
	images = slices.Clone(images)
	for i := range images {
		images[i].Digest, images[i].MediaType = reference.Digest{}, ""
	}
	return e.lookUp(ctx, r, images)
}

// lookUp returns the images with their digests. It looks up those without one.
func (e *execution) lookUp(ctx context.Context, r message.Repository, images []message.Image) ([]message.Image, error) {
	var asked []attempt
	for i, err := range e.comparer.LookUp(e.work, r, images) {
		asked = append(asked, attempt{images[i], err})
	}
	return e.settle(ctx, r, asked)
}

// settle returns the images without an error, and handles the errors of the others. A tag that has
// vanished is a failure only if the list names it.
func (e *execution) settle(ctx context.Context, r message.Repository, asked []attempt) ([]message.Image, error) {
	var good []message.Image
	var bad []attempt
	for _, a := range asked {
		image, err := a.image, a.err
		switch {
		case err == nil:
			good = append(good, image)
		case errors.Is(err, errLeft):
			e.postpone(r, []message.Image{image}, 0)
		case errors.Is(err, registry.ErrNotFound) && compare.IsOpen(r):
			if after, away := e.blamed(r, err); away {
				e.postpone(r, []message.Image{image}, after)
			} else {
				e.vanished(r, image.Tag)
			}
		default:
			bad = append(bad, a)
		}
	}
	return good, e.failed(ctx, r, bad...)
}
