// Package check forecasts a run: it asks both sides, pulls nothing from the source, and puts nothing
// at the destination.
package check

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/platform"
	"github.com/osism/skopeo-worker/worker/resolve"
)

const (
	// repositories bounds those under way at once, as in a worker.
	repositories = 16
	// requests bounds those to the destination that are under way at once, of all
	// repositories together, as in a worker.
	requests = 16
)

// Checker forecasts runs.
type Checker struct {
	Resolver resolve.Resolver
	// Mirror asks both sides; its engine is not used. The transport of its client for the
	// sources must be WithoutPulls: if a registry does not answer HEAD with a digest, a client
	// would pull. Its client for the destinations compares.
	Mirror *mirror.Mirror
	// Absent reports whether a manifest is known to have none of the wanted platforms. It is
	// optional.
	Absent func(ctx context.Context, digest reference.Digest, wanted platform.Wanted) (bool, error)
	// Held returns the immutable tags that a destination is known to have. It is optional.
	Held func(ctx context.Context, destination reference.Repository) (map[reference.Tag]compare.Held, error)
	// Last returns the last known listing of a source. It is optional.
	Last func(ctx context.Context, source reference.Repository) (compare.Listing, error)
	// Ages is that of the Comparer. It is optional.
	Ages compare.Ages
	// Allowance returns the allowance of a source registry. It is optional.
	Allowance func(ctx context.Context, registry string) (budget.Allowance, error)
	// Verify returns an error for each of the tags that must not be mirrored to a digest of the
	// source; a zero tag is the digest itself. The error is ErrPull if a
	// pull is needed to decide. If nil, all are trusted.
	Verify func(ctx context.Context, source reference.Repository, digest reference.Digest, tags []reference.Tag) (pulls int, errs []error)
	// Signatures says that images that are up to date are verified, too.
	Signatures bool
	// Backoff returns the pause before the next try after an error that may pass.
	Backoff func(attempt int) time.Duration
	// Progress is called at the start and after each repository, never twice at once. It is
	// optional.
	Progress func(done, total int)
}

// Check asks for the repositories of a list and returns a row for each pair of
// source and destination, in the order of the list. Errors of single images are
// in the rows; the error is ctx's, or of a broker that does not answer.
func (c *Checker) Check(ctx context.Context, list []message.Repository) (Report, error) {
	groups := bySource(list)
	f := c.forecast()
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
		group.Go(func() (err error) {
			report.Repositories[i], err = f.row(ctx, entries)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			progress()
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return Report{}, err
	}
	report.total()
	return report, f.budgets(ctx, &report)
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

// forecast is one Check under way. It implements compare.Asker.
type forecast struct {
	checker  *Checker
	comparer *compare.Comparer
	slots    chan struct{} // of requests to destinations

	mu           sync.Mutex
	silent       map[string]bool                            // hosts that did not answer, however often they were asked
	destinations map[reference.Repository]*destinationError // that were asked; nil if they answered
	samples      map[string]sampled                         // an image to be copied, by source registry
	rejected     map[*compare.Job]error                     // by the signature policy, and why
}

func (c *Checker) forecast() *forecast {
	f := &forecast{
		checker: c, slots: make(chan struct{}, requests), silent: map[string]bool{},
		destinations: map[reference.Repository]*destinationError{}, samples: map[string]sampled{}, rejected: map[*compare.Job]error{},
	}
	absent := c.Absent
	if absent == nil {
		absent = func(context.Context, reference.Digest, platform.Wanted) (bool, error) { return false, nil }
	}
	held := c.Held
	if held == nil {
		held = func(context.Context, reference.Repository) (map[reference.Tag]compare.Held, error) { return nil, nil }
	}
	last := c.Last
	if last == nil {
		last = func(context.Context, reference.Repository) (compare.Listing, error) { return compare.Listing{}, nil }
	}
	f.comparer = &compare.Comparer{Mirror: c.Mirror, Asker: f, Absent: absent, Held: held, Last: last, Ages: c.Ages, Predict: true}
	return f
}

// row forecasts the entries of one repository.
func (f *forecast) row(ctx context.Context, entries []message.Repository) (Row, error) {
	row := Row{Repository: entries[0].Source, Destination: entries[0].Destination, Failed: []Failed{}}
	c := counting{forecast: f, row: &row, subjects: map[reference.Digest]*compare.Job{}}
	resolved, errs := make([]resolve.Result, len(entries)), make([]error, len(entries))
	var group errgroup.Group
	group.SetLimit(requests)
	for i, entry := range entries {
		group.Go(func() error {
			resolved[i], errs[i] = f.resolve(ctx, entry)
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs
	for i := range entries {
		// Without a pull, no tag is known to have vanished: see ErrPull.
		if entries[i].Images = c.resolved(ctx, entries[i], resolved[i], errs[i]); ctx.Err() != nil {
			return row, ctx.Err()
		}
	}
	found, err := f.comparer.Compare(ctx, entries)
	if err != nil {
		return row, err
	}
	c.noteSubjects(found.Jobs)
	for _, aboutOthers := range []bool{false, true} { // whose verdicts depend on those others
		for _, j := range found.Jobs {
			if j.IsAboutOthers() != aboutOthers {
				continue
			}
			if err := j.Handle(ctx, c); err != nil {
				return row, err
			}
		}
	}
	for _, u := range found.Failed {
		c.fail(failure.Source(u.Entry, u.Image.Tag), u.Err)
	}
	row.PullsAtLeast, row.BytesAtLeast = row.PullsAtLeast || found.Hidden, row.BytesAtLeast || found.Hidden
	c.refer(ctx, found.Jobs)
	row.settle()
	return row, nil
}

// resolved counts the outcome of resolving an entry, and returns its images.
func (c counting) resolved(ctx context.Context, r message.Repository, found resolve.Result, err error) []message.Image {
	if err != nil {
		c.missed(ctx, r, r.Tag, err)
		return nil
	}
	c.row.Skipped += len(found.Skipped)
	if found.Unselected != "" {
		c.row.Warnings = append(c.row.Warnings, found.Unselected)
	}
	if found.Invalid != nil {
		c.fail(r.Source.String(), found.Invalid)
	}
	for _, m := range found.Missed {
		c.missed(ctx, r, m.Tag, m.Err)
	}
	return c.forecast.comparer.Resolved(r, found)
}
