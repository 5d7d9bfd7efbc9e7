// Package check finds out what mirroring would do, and does none of it: it asks both
// sides, pulls nothing from the source and puts nothing at the destination.
package check

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/resolve"
)

const (
	// repositories bounds those under way at once. It is what a worker has.
	repositories = 16
	// requests bounds those to the destination that are under way at once, of all
	// repositories together. It is what a worker has.
	requests = 16
)

// Checker compares repositories with their destination.
type Checker struct {
	// Resolver and Source ask the sources. The transport of their client should be
	// WithoutPulls: where a registry tells no digests, a client would pull.
	Resolver resolve.Resolver
	Source   *registry.Client
	// Mirror asks the destination: it has a client that compares, and no skopeo.
	Mirror *mirror.Mirror
	// Absent tells whether it is known that a manifest has nothing of what is wanted; nil
	// is that nothing is known.
	Absent func(ctx context.Context, digest reference.Digest, wanted platform.Wanted) (bool, error)
	// Outlook tells what a source registry allows; nil is that nothing is known.
	Outlook func(ctx context.Context, registry string) (budget.Outlook, error)
	// Backoff is the pause before the next try of what may pass.
	Backoff func(attempt int) time.Duration
	// Progress is told at the start and after each repository, never twice at once; nil
	// is allowed.
	Progress func(done, total int)
}

// Check asks for the repositories of a list and returns a row for each pair of
// source and destination, in the order of the list. What could not be found out is
// in the rows; the error is ctx's, or of a broker that does not tell what is known.
func (c *Checker) Check(ctx context.Context, list []message.Repository) (Report, error) {
	groups := bySource(list)
	t := &task{Checker: c, slots: make(chan struct{}, requests), silent: map[string]bool{}, samples: map[string]where{}}
	report := Report{Repositories: make([]Row, len(groups)), Registries: []Registry{}}
	var mu sync.Mutex
	done := 0
	progress := func() {
		if c.Progress != nil {
			c.Progress(done, len(groups))
		}
	}
	progress()
	var group errgroup.Group
	group.SetLimit(repositories)
	for i, entries := range groups {
		group.Go(func() error {
			report.Repositories[i] = t.row(ctx, entries)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			progress()
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return Report{}, err
	}
	report.total()
	return report, t.budgets(ctx, &report)
}

// bySource puts the entries of one repository that go to one destination together.
func bySource(list []message.Repository) [][]message.Repository {
	type pair struct{ source, destination reference.Repository }
	var groups [][]message.Repository
	index := map[pair]int{}
	for _, r := range list {
		key := pair{r.Source, r.Destination}
		i, known := index[key]
		if !known {
			i = len(groups)
			index[key] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], r)
	}
	return groups
}

// task is one Check under way.
type task struct {
	*Checker
	slots chan struct{} // of requests to the destination

	mu      sync.Mutex
	silent  map[string]bool  // hosts that did not answer, however often they were asked
	samples map[string]where // an image to be copied, by source registry
}

// row checks the entries of one repository.
func (t *task) row(ctx context.Context, entries []message.Repository) Row {
	row := Row{Repository: entries[0].Source, Destination: entries[0].Destination, Failed: []Failed{}}
	found := make([]resolved, len(entries))
	var group errgroup.Group
	group.SetLimit(requests)
	for i, entry := range entries {
		group.Go(func() error {
			found[i] = t.resolve(ctx, entry)
			return nil
		})
	}
	_ = group.Wait() // what went wrong is in found
	var images []*image
	seen := map[reference.Tag]bool{}
	for _, f := range found {
		row.Skipped += f.skipped
		row.Failed = append(row.Failed, f.failed...)
		for _, image := range f.images {
			// Two selections of one repository may share tags.
			if !seen[image.tag] {
				seen[image.tag] = true
				images = append(images, image)
			}
		}
	}
	listed := lists{}
	for len(images) > 0 {
		jobs := t.compare(ctx, &row, images)
		images = nil
		for _, image := range t.companions(ctx, &row, jobs, listed) {
			if !seen[image.tag] {
				seen[image.tag] = true
				images = append(images, image)
			}
		}
	}
	row.settle()
	return row
}
