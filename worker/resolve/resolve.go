// Package resolve finds out what a repository of the list means today: its tags
// and their digests.
package resolve

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Result is what a repository holds.
type Result struct {
	Images  []message.Image
	Skipped int // tags that were listed and then were gone
	Pulls   int // manifests that had to be pulled to learn their digest
}

// Resolver lists what is to be mirrored of a repository. Upstreams with a bulk
// listing of their own get their own one.
type Resolver interface {
	Resolve(ctx context.Context, r message.Repository) (Result, error)
}

// heads bounds the HEAD requests of one repository that are under way at once.
const heads = 16

// OCI resolves with what every registry has: tags/list, and HEAD for digests.
type OCI struct {
	Registry *registry.Client
}

// Resolve implements Resolver. What the list pins to a digest is not asked for,
// for a tag there is one HEAD, and for a whole repository one for each of its tags.
func (o *OCI) Resolve(ctx context.Context, r message.Repository) (Result, error) {
	switch {
	case r.Digest != "":
		return Result{Images: []message.Image{{Tag: r.Tag, Digest: r.Digest}}}, nil
	case r.Tag != "":
		d, err := o.Registry.Head(ctx, r.Source, r.Tag)
		if err != nil {
			return Result{}, err
		}
		return Result{Images: []message.Image{image(r.Tag, d)}, Pulls: pulls(d)}, nil
	}
	var tags []string
	seen := map[string]bool{}
	for tag, err := range o.Registry.Tags(ctx, r.Source) {
		if err != nil {
			return Result{}, err
		}
		// A push in the middle of a listing can show a tag on two pages.
		if !seen[tag] {
			seen[tag] = true
			tags = append(tags, tag)
		}
	}
	return o.digests(ctx, r.Source, tags)
}

func (o *OCI) digests(ctx context.Context, repository string, tags []string) (Result, error) {
	found := make([]registry.Descriptor, len(tags))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(heads)
	for i, tag := range tags {
		group.Go(func() error {
			var err error
			found[i], err = o.Registry.Head(ctx, repository, tag)
			if errors.Is(err, registry.ErrNotFound) {
				return nil // deleted since the listing
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return Result{}, err
	}
	var result Result
	for i, tag := range tags {
		result.Pulls += pulls(found[i])
		if found[i].Digest == "" {
			result.Skipped++
			continue
		}
		result.Images = append(result.Images, image(tag, found[i]))
	}
	return result, nil
}

func image(tag string, d registry.Descriptor) message.Image {
	return message.Image{Tag: tag, Digest: d.Digest, MediaType: d.MediaType}
}

func pulls(d registry.Descriptor) int {
	if d.Pulled {
		return 1
	}
	return 0
}
