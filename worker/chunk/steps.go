package chunk

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
)

// resolveAll turns repositories into images, and looks up again what is not to be
// believed any more.
func (t *task) resolveAll(ctx context.Context, todo []message.Repository) ([]message.Repository, error) {
	resolved := make([]message.Repository, len(todo))
	var group errgroup.Group
	group.SetLimit(requests)
	for i, r := range todo {
		group.Go(func() error {
			var err error
			switch {
			case t.stopping():
				t.later(r, r.Images, 0)
			case len(r.Images) == 0:
				resolved[i], err = t.resolve(ctx, r)
			case t.first && t.Fresh:
				resolved[i] = r
			default:
				resolved[i] = r
				resolved[i].Images, err = t.refresh(ctx, r, r.Images)
			}
			return err
		})
	}
	return resolved, group.Wait()
}

// resolve asks the source what the repository holds.
func (t *task) resolve(ctx context.Context, r message.Repository) (message.Repository, error) {
	found, err := t.Resolver.Resolve(t.work, r)
	if err != nil {
		if after, again := t.retry(err, &r.Attempts); again {
			t.log.Info("will be listed again", "repository", r.Source, "attempts", r.Attempts, "reason", outcome.Reason(err))
			t.later(r, nil, after)
			return message.Repository{}, nil
		}
		return message.Repository{}, t.fail(ctx, r, nil, err)
	}
	t.mirrored.add(r.Source, r.Source) // it could be listed
	t.count("skipped", found.Skipped, func(p *progress) {
		p.images.Total += len(found.Images) + found.Skipped
		p.images.Skipped += found.Skipped
		p.pulls += found.Pulls
	})
	if !t.Chunk.Republished {
		if err := t.Resolutions.Resolved(ctx, t.Chunk, r); err != nil {
			return message.Repository{}, err
		}
	}
	r.Images = found.Images
	return r, nil
}

// refresh looks the tags up again and returns the images with the digests of now.
// What the list pins stays as it is.
func (t *task) refresh(ctx context.Context, r message.Repository, images []message.Image) ([]message.Image, error) {
	if r.Digest != "" {
		return images, nil
	}
	fresh := make([]*message.Image, len(images))
	var group errgroup.Group
	group.SetLimit(requests)
	for i, image := range images {
		group.Go(func() error {
			d, err := t.Mirror.Registry.Head(t.work, r.Source, image.Tag)
			if err == nil {
				image.Digest, image.MediaType = d.Digest, d.MediaType
				fresh[i] = &image
				return nil
			}
			return t.missed(ctx, r, []message.Image{image}, err)
		})
	}
	err := group.Wait()
	images = nil
	for _, image := range fresh {
		if image != nil {
			images = append(images, *image)
		}
	}
	return images, err
}

// missed decides what becomes of images whose tag could not be looked up: one that
// is gone from a repository that is mirrored as a whole is no failure.
func (t *task) missed(ctx context.Context, r message.Repository, images []message.Image, err error) error {
	if errors.Is(err, registry.ErrNotFound) && r.Tag == "" && r.Digest == "" {
		t.count("skipped", len(images), func(p *progress) { p.images.Skipped += len(images) })
		return nil
	}
	return t.failed(ctx, r, images, err)
}

// failed keeps images for another try, or gives them up.
func (t *task) failed(ctx context.Context, r message.Repository, images []message.Image, err error) error {
	attempts := 0
	for _, i := range images {
		attempts = max(attempts, i.Attempts)
	}
	after, again := t.retry(err, &attempts)
	for i := range images {
		images[i].Attempts = attempts
	}
	if !again {
		return t.fail(ctx, r, images, err)
	}
	t.log.Info("will be tried again", "image", failure.Source(r, images[0].Tag), "attempts", attempts, "reason", outcome.Reason(err))
	t.later(r, images, after)
	return nil
}

// compareAll leaves what the destination does not have yet, one job for each
// digest of a repository.
func (t *task) compareAll(ctx context.Context, resolved []message.Repository) ([]*job, error) {
	now := time.Now()
	differs := make([][]bool, len(resolved))
	var group errgroup.Group
	group.SetLimit(requests)
	for i, r := range resolved {
		differs[i] = make([]bool, len(r.Images))
		for k, image := range r.Images {
			group.Go(func() error {
				have, err := t.Mirror.Tagged(t.work, r.Destination, destinationTag(image))
				switch {
				case err != nil:
					return t.failed(ctx, r, []message.Image{image}, err)
				case have == image.Digest:
					t.seen(r, image.Tag)
					t.count("unchanged", 1, func(p *progress) { p.images.Unchanged++ })
				default:
					differs[i][k] = true
				}
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return t.jobs(resolved, differs, now), nil
}

func (t *task) jobs(resolved []message.Repository, differs [][]bool, now time.Time) []*job {
	var jobs []*job
	for i, r := range resolved {
		known := map[string]*job{}
		for k, image := range r.Images {
			if !differs[i][k] {
				continue
			}
			j := known[image.Digest]
			if j == nil {
				j = &job{repository: r, digest: image.Digest, mediaType: image.MediaType, resolved: now}
				known[image.Digest] = j
				jobs = append(jobs, j)
			}
			j.images = append(j.images, image)
		}
	}
	return jobs
}

// seen notes that the image is at the destination.
func (t *task) seen(r message.Repository, tag string) {
	t.mirrored.add(r.Source, failure.Source(r, tag))
}

func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}
