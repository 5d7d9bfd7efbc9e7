package chunk

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
)

// resolveAll turns repositories into images, and looks up again what is not to be
// believed any more.
func (t *task) resolveAll(ctx context.Context, todo []message.Repository) ([]message.Repository, error) {
	resolved := make([]message.Repository, len(todo))
	missed := make([][]try, len(todo))
	var group errgroup.Group
	group.SetLimit(requests)
	for i, r := range todo {
		group.Go(func() error {
			var err error
			switch {
			case t.stopping(), t.limits(r.Source):
				t.later(r, r.Images, 0)
			case len(r.Images) == 0:
				resolved[i], missed[i], err = t.resolve(ctx, r)
			default:
				resolved[i] = r
				resolved[i].Images, err = t.known(ctx, r)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	// Last, because one that has to wait makes everything wait that is not resolved.
	for i, tries := range missed {
		if err := t.failed(ctx, resolved[i], tries...); err != nil {
			return nil, err
		}
	}
	return resolved, nil
}

// resolve asks the source what the repository holds, and returns it with its images,
// and those that could not be looked up.
func (t *task) resolve(ctx context.Context, r message.Repository) (message.Repository, []try, error) {
	found, err := t.Resolver.Resolve(t.work, r)
	t.note(func(p *progress) { p.pulls += found.Pulls })
	if err != nil {
		if after, again := t.retry(r, err, &r.Attempts); again {
			t.log.Info("a repository will be listed again", "repository", r.Source, "attempts", r.Attempts, "reason", outcome.Reason(err))
			t.later(r, nil, after)
			return message.Repository{}, nil, nil
		}
		itself := try{message.Image{Tag: r.Tag, Digest: r.Digest, Attempts: r.Attempts}, err}
		if t.doubtful(err) {
			t.doubt(doubt{repository: r, try: itself, listing: true})
			return message.Repository{}, nil, nil
		}
		t.note(func(p *progress) { p.images.Total++ })
		return message.Repository{}, nil, t.giveUp(ctx, r, itself)
	}
	if len(found.Vanished) > 0 {
		denied := &registry.Error{Op: registry.OpHead, Repository: r.Source, Reference: found.Vanished[0], Err: registry.ErrNotFound}
		if after, away := t.blamed(r, denied); away {
			t.later(r, nil, after)
			return message.Repository{}, nil, nil
		}
	}
	t.entries.note(r, func(s *standingOf) { s.listed, s.invalid = true, found.Invalid })
	t.count("skipped", found.Skipped, func(p *progress) {
		p.images.Total += len(found.Images) + len(found.Missed) + len(found.Vanished) + found.Skipped
		p.images.Skipped += found.Skipped
	})
	if found.Skipped > 0 {
		t.entries.found(r)
	}
	for _, tag := range found.Vanished {
		t.vanished(r, tag)
	}
	if !t.Chunk.Republished {
		if err := t.Notes.Resolved(ctx, t.Chunk, r); err != nil {
			return message.Repository{}, nil, err
		}
	}
	missed := make([]try, len(found.Missed))
	for i, m := range found.Missed {
		missed[i] = try{message.Image{Tag: m.Tag}, m.Err}
		if errors.Is(m.Err, registry.ErrLimited) {
			t.limit(r, m.Err)
		}
	}
	t.companions.note(r, found)
	r.Images = found.Images
	return r, missed, nil
}

// known returns the images with digests that may be believed. Those of a fresh
// delivery are; the others are looked up, now or when it is their turn.
func (t *task) known(ctx context.Context, r message.Repository) ([]message.Image, error) {
	var young, unknown []message.Image
	for _, image := range r.Images {
		if !image.Digest.IsZero() && t.first && t.Fresh {
			young = append(young, image)
		} else {
			unknown = append(unknown, image)
		}
	}
	if t.lazy() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, image := range unknown {
			t.unknown = append(t.unknown, &job{repository: r, images: []message.Image{image}})
		}
		return young, nil
	}
	found, err := t.refresh(ctx, r, unknown)
	return append(young, found...), err
}

// lazy tells whether digests are looked up one by one. A remainder mostly comes from a
// budget that is spent, and soon is again: what was looked up for all of it would be for
// nothing. What may be too much for one worker must be known to be split.
func (t *task) lazy() bool {
	return t.first && t.Remainder && (t.Alone || t.Chunk.Images() <= maxCopies)
}

// refresh looks the tags up again and returns the images with the digests of now.
// What the list pins stays as it is.
func (t *task) refresh(ctx context.Context, r message.Repository, images []message.Image) ([]message.Image, error) {
	if !r.Digest.IsZero() {
		return images, nil
	}
	fresh := slices.Clone(images)
	errs := t.ask(r, r.Source, len(images), func(i int) error {
		d, err := t.Mirror.Registry.Find(t.work, r.Source, images[i].Tag)
		if d.Pulled {
			t.note(func(p *progress) { p.pulls++ })
		}
		fresh[i].Digest, fresh[i].MediaType = d.Digest, d.MediaType
		return err
	})
	return t.settle(ctx, r, fresh, errs)
}

// errLeft stands for a request that was not made, since it would have been in vain.
var errLeft = errors.New("left for later")

// ask makes n small requests to a repository, many at once, and returns their
// errors.
func (t *task) ask(r message.Repository, repository reference.Repository, n int, request func(i int) error) []error {
	errs := make([]error, n)
	var group errgroup.Group
	group.SetLimit(requests)
	for i := range n {
		group.Go(func() error {
			t.slots <- struct{}{}
			defer func() { <-t.slots }()
			if t.stopping() || t.limits(repository) {
				errs[i] = errLeft
				return nil
			}
			errs[i] = request(i)
			if outcome.Classify(errs[i]) == outcome.Limited {
				t.limit(r, errs[i])
			}
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs
	return errs
}

// settle returns the images without an error, and sees to the others. A tag that has
// vanished is no failure, unless the list names it.
func (t *task) settle(ctx context.Context, r message.Repository, images []message.Image, errs []error) ([]message.Image, error) {
	var good []message.Image
	var bad []try
	for i, image := range images {
		switch err := errs[i]; {
		case err == nil:
			good = append(good, image)
		case errors.Is(err, errLeft):
			t.later(r, []message.Image{image}, 0)
		case errors.Is(err, registry.ErrNotFound) && open(r):
			if after, away := t.blamed(r, err); away {
				t.later(r, []message.Image{image}, after)
			} else {
				t.vanished(r, image.Tag)
			}
		default:
			bad = append(bad, try{image, err})
		}
	}
	return good, t.failed(ctx, r, bad...)
}
