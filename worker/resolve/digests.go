package resolve

import (
	"context"
	"errors"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registry"
)

// heads bounds the HEAD requests of one repository that are under way at once.
const heads = 16

// digests looks up the tags that the listing told no digest of. An answer that
// concerns one tag leaves that tag to the caller, so that it does not hide the
// others; without an answer there is no result. A registry that limits us is asked
// no more: the rest is left, too. A tag that is not found was deleted since the
// listing, unless it was named.
func (u *Upstream) digests(ctx context.Context, repository string, tags []listing.Tag, named bool) (Result, error) {
	found := make([]registry.Descriptor, len(tags))
	missed := make([]error, len(tags))
	var limited atomic.Pointer[error]
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(heads)
	for i, tag := range tags {
		if tag.Digest != "" {
			found[i] = registry.Descriptor{Digest: tag.Digest, MediaType: tag.MediaType}
			continue
		}
		group.Go(func() error {
			if err := limited.Load(); err != nil {
				missed[i] = *err
				return nil
			}
			var err error
			found[i], err = u.Registry.Head(ctx, repository, tag.Name)
			switch {
			case errors.Is(err, registry.ErrNotFound) && !named:
				return nil
			case errors.Is(err, registry.ErrLimited):
				limited.Store(&err)
			case err != nil && !answered(err):
				return err
			}
			missed[i] = err
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return Result{}, err
	}
	var result Result
	for i, tag := range tags {
		result.Pulls += pulls(found[i])
		switch {
		case missed[i] != nil:
			result.Missed = append(result.Missed, Missed{Tag: tag.Name, Err: missed[i]})
		case found[i].Digest == "":
			result.Skipped++
		default:
			result.Images = append(result.Images, image(tag.Name, found[i]))
			result.note(tag.Name, Listed{Size: tag.Size, Platforms: tag.Platforms})
		}
	}
	return result, nil
}

// note keeps what the listing told of a tag.
func (r *Result) note(tag string, told Listed) {
	if told.Size == 0 && len(told.Platforms) == 0 {
		return
	}
	if r.Listed == nil {
		r.Listed = map[string]Listed{}
	}
	r.Listed[tag] = told
}

// answered tells whether the registry itself has answered.
func answered(err error) bool {
	var asked *registry.Error
	return errors.As(err, &asked) && asked.Status != 0
}
