package check

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/referrers"
	"github.com/osism/skopeo-worker/worker/registry"
)

// refer counts the referrers of the jobs' images that the destination lacks. It counts the
// referrers of an image once if several indexes list it.
func (c counting) refer(ctx context.Context, jobs []*compare.Job) {
	var mu sync.Mutex
	subjects := map[reference.Digest]bool{}
	first := func(subject reference.Digest) bool {
		mu.Lock()
		defer mu.Unlock()
		known := subjects[subject]
		subjects[subject] = true
		return !known
	}
	var group errgroup.Group
	group.SetLimit(compare.AtOnce)
	seen := map[[2]reference.Digest]bool{}
	for _, j := range jobs {
		content := [2]reference.Digest{j.Digest, j.At}
		if !compare.BringsReferrers(j.Entry) || j.IsSkipped() || j.Verdict == compare.Failed || len(j.All()) == 0 || seen[content] {
			continue
		}
		seen[content] = true
		group.Go(func() error {
			found, err := c.forecast.referrers(ctx, j, first)
			mu.Lock()
			defer mu.Unlock()
			c.row.add(found)
			if err != nil {
				c.fail(failure.Source(j.Entry, j.All()[0].Tag), err)
			}
			return nil
		})
	}
	_ = group.Wait() // the errors are in the row
}

// referrers counts the referrers of one job. The manifests below an index are known if the index
// is at the destination. first reports whether a subject was not counted before.
func (f *forecast) referrers(ctx context.Context, j *compare.Job, first func(reference.Digest) bool) (found Counts, err error) {
	var subjects []reference.Digest
	switch {
	case !j.At.IsZero():
		err = f.Ask(ctx, j.Entry, j.Entry.Destination, func() (err error) {
			subjects, err = f.checker.Mirror.Subjects(ctx, j.Entry.Destination, j.Digest, j.At)
			return err
		})
	case compare.Wanted(j.Entry).All(), j.IsImage():
		subjects = []reference.Digest{j.Digest}
	}
	unknown := err != nil || j.At.IsZero() && !j.IsImage()
	found = Counts{PullsAtLeast: unknown, BytesAtLeast: unknown}
	for _, subject := range subjects {
		if !first(subject) {
			continue
		}
		if err = f.referrersOf(ctx, j, subject, &found); err != nil {
			break
		}
	}
	return found, err
}

// referrersOf counts the referrers of a manifest, those of the referrers, and so on. A registry
// without the referrers API lists them in a manifest, which takes a pull.
func (f *forecast) referrersOf(ctx context.Context, j *compare.Job, subject reference.Digest, found *Counts) error {
	source, destination := j.Entry.Source, j.Entry.Destination
	var entries []registry.Entry
	finder := referrers.Finder{Registry: f.checker.Mirror.Registry, Held: func(ctx context.Context, digest reference.Digest) (registry.Manifest, bool) {
		m, err := f.checker.Mirror.Destination().Get(ctx, destination, digest)
		return m, err == nil
	}}
	err := f.Ask(ctx, j.Entry, source, func() error {
		entries = nil
		return finder.Walk(ctx, source, subject, func(list referrers.List) error {
			entries = append(entries, list.Referrers...)
			return nil
		})
	})
	if errors.Is(err, errPull) {
		found.Pulls++
		found.PullsAtLeast, found.BytesAtLeast, err = true, true, nil
	}
	for _, entry := range entries {
		if err != nil {
			return err
		}
		held := false
		err = f.Ask(ctx, j.Entry, destination, func() (err error) {
			_, held, err = f.checker.Mirror.Holds(ctx, destination, entry.Digest)
			return err
		})
		if err == nil && !held {
			found.Referrers++
			found.cost(&compare.Job{MediaType: entry.MediaType})
		}
	}
	return err
}
