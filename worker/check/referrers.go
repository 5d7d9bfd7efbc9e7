package check

import (
	"context"
	"errors"
	"sync"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/referrers"
	"github.com/osism/skopeo-worker/worker/registry"
)

// refer counts what refers to the images of a row and is not at the destination.
func (t *task) refer(ctx context.Context, row *Row, jobs []*job) {
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(requests)
	for _, j := range jobs {
		if !j.image.referrers || j.err != nil || j.verdict == skipping {
			continue
		}
		group.Go(func() error {
			found, err := t.referrers(ctx, row, j)
			mu.Lock()
			defer mu.Unlock()
			row.add(found)
			if err != nil {
				row.Failed = append(row.Failed, failed(j.image.source, err))
			}
			return nil
		})
	}
	_ = group.Wait() // what went wrong is in the row
}

// referrers counts what refers to one image.
func (t *task) referrers(ctx context.Context, row *Row, j *job) (Counts, error) {
	subjects, all, err := t.subjects(ctx, row.Destination, j)
	found := Counts{PullsAtLeast: !all, BytesAtLeast: !all}
	for _, subject := range subjects {
		if err != nil {
			break
		}
		err = t.referrersOf(ctx, row, subject, &found)
	}
	return found, err
}

// subjects are the manifests whose referrers are mirrored with an image: its own, and
// those below it, which are known as soon as it is at the destination. What refers to
// the source's own index has no place beside an index of just some platforms.
func (t *task) subjects(ctx context.Context, destination reference.Repository, j *job) (subjects []reference.Digest, all bool, err error) {
	i := j.image
	if j.at.IsZero() {
		if i.wanted.All() || isImage(i.mediaType) {
			subjects = append(subjects, i.digest)
		}
		return subjects, isImage(i.mediaType), nil
	}
	if j.at == i.digest {
		subjects = append(subjects, i.digest)
	}
	seen := map[reference.Digest]bool{}
	for next := []reference.Digest{j.at}; len(next) > 0; next = next[1:] {
		var manifest registry.Manifest
		err = t.insist(ctx, destination, t.slot(func() (err error) {
			manifest, err = t.Mirror.Destination.Get(ctx, destination, next[0])
			return err
		}))
		if err != nil {
			return nil, false, err
		}
		children, err := manifest.Entries()
		if err != nil {
			return nil, false, err
		}
		for _, child := range children {
			if platform.Attestation(child) || child.Kind() == registry.IsBlob || seen[child.Digest] {
				continue
			}
			seen[child.Digest] = true
			subjects = append(subjects, child.Digest)
			if types.MediaType(child.MediaType).IsIndex() {
				next = append(next, child.Digest)
			}
		}
	}
	return subjects, true, nil
}

// referrersOf counts what refers to a manifest, and to that, and so on. Where the
// registry has no referrers API, the list of them is a manifest: that there is one can
// be seen, and what is in it takes a pull.
func (t *task) referrersOf(ctx context.Context, row *Row, subject reference.Digest, found *Counts) error {
	var entries []registry.Entry
	finder := referrers.Finder{Registry: t.Source, Held: func(ctx context.Context, digest reference.Digest) (registry.Manifest, bool) {
		m, err := t.Mirror.Destination.Get(ctx, row.Destination, digest)
		return m, err == nil
	}}
	err := t.insist(ctx, row.Repository, func() error {
		entries = nil
		return finder.Walk(ctx, row.Repository, subject, func(list referrers.List) error {
			entries = append(entries, list.Referrers...)
			return nil
		})
	})
	if errors.Is(err, ErrPull) {
		found.Pulls++
		found.PullsAtLeast, found.BytesAtLeast, err = true, true, nil
	}
	for _, entry := range entries {
		if err != nil {
			return err
		}
		err = t.insist(ctx, row.Destination, t.slot(func() error {
			_, err := t.Mirror.Destination.Head(ctx, row.Destination, entry.Digest)
			return err
		}))
		if registry.Absent(err) {
			found.Referrers++
			found.cost(&image{mediaType: entry.MediaType})
			err = nil
		}
	}
	return err
}
