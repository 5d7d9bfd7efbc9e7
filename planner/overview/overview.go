// Package overview reads the state of all mirrors at a broker. All visitors of the page share one
// reading, so that many visitors cost the broker as much as one.
package overview

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/estimate"
	"github.com/osism/skopeo-worker/shared/failure"
	"github.com/osism/skopeo-worker/shared/run"
	"golang.org/x/sync/semaphore"
)

const (
	// fresh is how long an overview is used before it is read again.
	fresh = time.Second
	// timeout bounds the reading of an overview.
	timeout = 20 * time.Second
	// lostAgain is when the status of a lost run is read again: an operator may have restored the
	// stream.
	lostAgain = time.Minute
)

// ErrUnknown is returned for a mirror name without runs and failures.
var ErrUnknown = errors.New("unknown mirror name")

// Sources are the stores that an overview is read from.
type Sources struct {
	Runs     *run.Store
	Failures *failure.Store
	Budget   *budget.Store
}

// Overview is the state of the mirrors at a time.
type Overview struct {
	At         time.Time      `json:"at"`
	Mirrors    []Mirror       `json:"mirrors"`    // sorted by name
	Registries []run.Registry `json:"registries"` // registries with a known state, sorted by name
	// Unreadable is the number of unreadable messages among the failures.
	Unreadable int `json:"unreadable_failures"`
}

// Mirror returns the mirror with the name, or ErrUnknown.
func (o Overview) Mirror(name string) (Mirror, error) {
	i, found := slices.BinarySearchFunc(o.Mirrors, name, func(m Mirror, name string) int { return cmp.Compare(m.Name, name) })
	if !found {
		return Mirror{}, fmt.Errorf("%w: %s", ErrUnknown, name)
	}
	return o.Mirrors[i], nil
}

// Reader reads overviews. It is safe for concurrent use.
type Reader struct {
	sources Sources
	own     string        // see New
	maxAge  time.Duration // see New
	now     func() time.Time

	turn     *semaphore.Weighted // allows one reading at a time
	ledger   *run.Ledger
	counter  *failure.Counter
	byName   map[string][]run.Entry
	trackers map[string]*run.Tracker // of runs that are not over, by name and id
	ended    map[string]ended        // by name and id
	last     Overview
}

// ended is the last status of a run that is over.
type ended struct {
	status   run.Status
	revision uint64
	until    time.Time // when to read it again; zero: never
}

// New returns a reader. Overviews include the mirror own even before its first run. A mirror is stale if
// its last complete run ended longer than maxAge ago; 0 means never.
func New(s Sources, own string, maxAge time.Duration) *Reader {
	return &Reader{
		sources: s, own: own, maxAge: maxAge, now: time.Now, turn: semaphore.NewWeighted(1),
		ledger: s.Runs.Ledger(), counter: s.Failures.Counter(), trackers: map[string]*run.Tracker{}, ended: map[string]ended{},
	}
}

// errSlow is returned if the broker takes longer than timeout.
var errSlow = fmt.Errorf("%w: it has not answered everything within %s", broker.ErrUnreachable, timeout)

// alone calls read while no other goroutine reads. If ctx ends first, it returns the error of ctx. If
// it takes longer than timeout, the error wraps errSlow.
func (r *Reader) alone(ctx context.Context, read func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errSlow)
	defer cancel()
	if r.turn.Acquire(ctx, 1) != nil {
		return context.Cause(ctx)
	}
	defer r.turn.Release(1)
	err := read(ctx)
	if errors.Is(err, context.DeadlineExceeded) && errors.Is(context.Cause(ctx), errSlow) {
		return context.Cause(ctx)
	}
	return err
}

// Now returns an overview that is at most a second old.
func (r *Reader) Now(ctx context.Context) (o Overview, err error) {
	err = r.alone(ctx, func(ctx context.Context) error {
		o, err = r.refresh(ctx)
		return err
	})
	return o, err
}

func (r *Reader) refresh(ctx context.Context) (Overview, error) {
	now := r.now()
	if now.Sub(r.last.At).Abs() < fresh {
		return r.last, nil
	}
	byName, err := r.ledger.List(ctx)
	if err != nil {
		return Overview{}, fmt.Errorf("listing runs: %w", err)
	}
	r.byName = byName
	r.forget()
	kept, err := r.counter.Count(ctx)
	if err != nil {
		return Overview{}, fmt.Errorf("counting failures: %w", err)
	}
	o := Overview{At: now, Mirrors: []Mirror{}, Registries: []run.Registry{}, Unreadable: kept.Unreadable}
	for _, name := range r.names(kept) {
		m, err := r.mirror(ctx, name, kept.Images[name])
		if err != nil {
			return Overview{}, err
		}
		o.Mirrors = append(o.Mirrors, m)
	}
	registries, err := estimate.Registries(ctx, r.sources.Budget)
	if err != nil {
		return Overview{}, fmt.Errorf("reading budgets: %w", err)
	}
	o.Registries = append(o.Registries, registries...)
	r.last = o
	return o, nil
}

// names returns all mirror names with runs or failures, and the own one, sorted.
func (r *Reader) names(kept failure.Counts) []string {
	names := []string{r.own}
	for name := range r.byName {
		names = append(names, name)
	}
	for name, count := range kept.Images {
		if count != (failure.Count{}) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// forget drops the state of runs that are no longer kept.
func (r *Reader) forget() {
	kept := map[string]bool{}
	for _, entries := range r.byName {
		for _, e := range entries {
			kept[key(e)] = true
		}
	}
	maps.DeleteFunc(r.ended, func(k string, _ ended) bool { return !kept[k] })
	maps.DeleteFunc(r.trackers, func(k string, _ *run.Tracker) bool { return !kept[k] })
}

func key(e run.Entry) string { return e.Name + "." + e.ID }

// status returns the status of a run. It reads the status of a finished run only once.
func (r *Reader) status(ctx context.Context, e run.Entry) (run.Status, error) {
	k := key(e)
	if known, ok := r.ended[k]; ok && known.revision == e.Revision && (known.until.IsZero() || r.now().Before(known.until)) {
		return known.status, nil
	}
	t := r.trackers[k]
	if t == nil {
		var err error
		if t, err = r.sources.Runs.Track(ctx, e.Name, e.ID); err != nil {
			return run.Status{}, err
		}
		r.trackers[k] = t
	}
	status, err := t.Status(ctx)
	if err != nil {
		return run.Status{}, err
	}
	if status.Over() && (status.Finished != nil || status.State == run.StateLost) {
		over := ended{status: status, revision: e.Revision}
		if status.State == run.StateLost {
			over.until = r.now().Add(lostAgain)
		}
		r.ended[k] = over
		delete(r.trackers, k)
	}
	return status, nil
}
