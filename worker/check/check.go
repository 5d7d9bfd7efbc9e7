// Package check forecasts a run: it asks both sides, pulls nothing from the source, and puts
// nothing at the destination.
package check

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/resolve"
)

const (
	// repositories is how many repositories are checked at once, as in a worker.
	repositories = 16
	// requests is how many requests to destinations are under way at once, for all
	// repositories together, as in a worker.
	requests = 16
)

// Notes return what workers have noted at the broker.
type Notes interface {
	compare.Notes
	// Counted returns how many tags a source last listed; zero if that is unknown.
	Counted(ctx context.Context, source reference.Repository) (compare.Listing, error)
}

// Checker forecasts runs.
type Checker struct {
	Resolver resolve.Resolver
	// Mirror sends the requests; its engine is not used. The transport of its client for
	// sources must be WithoutPulls, because a client pulls if a registry does not answer HEAD
	// with a digest. Its client for destinations must be a registry.Client.Comparing.
	Mirror *mirror.Mirror
	Notes  Notes
	// Allowance returns the allowance of a source registry. It is optional.
	Allowance func(ctx context.Context, registry string) (budget.Allowance, error)
	// Verify returns an error for each tag with which a digest of the source must not be
	// mirrored; a zero tag stands for the digest itself. If only a pull can decide, that is the
	// error. If Verify is nil, all images are trusted.
	Verify func(ctx context.Context, source reference.Repository, digest reference.Digest, tags []reference.Tag) (pulls int, errs []error)
	// Signatures extends Verify to images that are up to date.
	Signatures bool
	// Backoff returns the pause after a failed attempt.
	Backoff func(attempt int) time.Duration
	// Progress is called at the start and after each repository, one call at a time. It is
	// optional.
	Progress func(done, total int)
}

// Check returns a row for each pair of source and destination in the list, in its order. Errors
// of single images are in the rows. The error is ctx's, or the broker's.
func (c *Checker) Check(ctx context.Context, list []message.Repository) (Report, error) {
	type pair struct{ source, destination reference.Repository }
	groups := compare.Grouped(list, func(r message.Repository) pair { return pair{r.Source, r.Destination} })
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

// forecast is one Check under way. It implements compare.Asker.
type forecast struct {
	checker  *Checker
	comparer *compare.Comparer
	slots    chan struct{} // of requests to destinations

	mu           sync.Mutex
	silent       map[string]bool                            // hosts that have not answered any attempt
	destinations map[reference.Repository]*destinationError // result of the first request; nil for an answer
	samples      map[string]*compare.Job                    // a job to be copied, by source registry
	rejected     map[*compare.Job]error                     // why the signature policy rejects images of a job
}

func (c *Checker) forecast() *forecast {
	f := &forecast{
		checker: c, slots: make(chan struct{}, requests), silent: map[string]bool{},
		destinations: map[reference.Repository]*destinationError{}, samples: map[string]*compare.Job{}, rejected: map[*compare.Job]error{},
	}
	f.comparer = &compare.Comparer{Mirror: c.Mirror, Asker: f, Notes: c.Notes, Predict: true}
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
		if entries[i].Images = c.resolved(ctx, entries[i], resolved[i], errs[i]); ctx.Err() != nil {
			return row, ctx.Err()
		}
	}
	found, err := f.comparer.Compare(ctx, entries)
	if err != nil {
		return row, err
	}
	c.noteSubjects(found.Jobs)
	for _, aboutOthers := range []bool{false, true} { // companions come last: they depend on their images
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

// resolved counts the results of resolving an entry, and returns its images.
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

// errPull is returned if only a pull could answer: the registry answers HEAD without a digest, or
// with 404, which may be wrong. So a check does not know whether a tag has vanished.
var errPull = errors.New("the digest is known only after a pull, and a check pulls nothing")

// WithoutPulls returns a transport that refuses to get manifests, which registries count as
// pulls.
func WithoutPulls(inner http.RoundTripper) http.RoundTripper { return withoutPulls{inner} }

type withoutPulls struct{ inner http.RoundTripper }

func (t withoutPulls) RoundTrip(request *http.Request) (*http.Response, error) {
	parts := strings.Split(request.URL.Path, "/")
	if n := len(parts); request.Method == http.MethodGet && n >= 2 && parts[n-2] == "manifests" {
		return nil, errPull
	}
	return t.inner.RoundTrip(request)
}
