package check

import (
	"context"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/estimate"
	"github.com/osism/skopeo-worker/worker/compare"
)

// Registry is the number of pulls from a source registry, and the time they take within its
// limit.
type Registry struct {
	Registry     string        `json:"registry"`
	Limit        int           `json:"limit"` // 0 if unknown
	Window       string        `json:"window"`
	Origin       budget.Origin `json:"origin"`
	Free         *int          `json:"free"` // nil if pulls are not counted
	Pulls        int           `json:"pulls"`
	PullsAtLeast bool          `json:"pulls_at_least"`
	Seconds      *int          `json:"seconds"` // nil if no limit is known
}

// sample notes one image of each source registry. A HEAD for it shows the registry's limit.
func (f *forecast) sample(j *compare.Job) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if name := j.Entry.Source.Registry(); f.samples[name] == nil {
		f.samples[name] = j
	}
}

// budgets adds the limits of the registries to a report, and the time a run takes within them.
func (f *forecast) budgets(ctx context.Context, r *Report) error {
	all := map[string]*Registry{}
	for _, row := range r.Repositories {
		if row.Pulls == 0 {
			continue
		}
		name := row.Repository.Registry()
		if all[name] == nil {
			all[name] = &Registry{Registry: name}
		}
		all[name].Pulls += row.Pulls
		all[name].PullsAtLeast = all[name].PullsAtLeast || row.PullsAtLeast
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if f.checker.Allowance != nil {
			if err := f.allowance(ctx, all[name]); err != nil {
				return err
			}
		}
		r.Registries = append(r.Registries, *all[name])
		if s := all[name].Seconds; s != nil {
			r.Totals.NotBefore(time.Duration(*s) * time.Second)
		}
	}
	return nil
}

// allowance finds out the limit of a registry. The budget learns it from the headers of the
// answer to a HEAD. Without an answer, the last known limit is used.
func (f *forecast) allowance(ctx context.Context, r *Registry) error {
	if j := f.samples[r.Registry]; j != nil {
		_, _ = f.checker.Mirror.Registry.Head(ctx, j.Entry.Source, j.Digest)
	}
	a, err := f.checker.Allowance(ctx, r.Registry)
	if err != nil {
		return err
	}
	last, err := estimate.Last(ctx, a, r.Pulls)
	if err != nil {
		return err
	}
	wait := last.Sub(a.Now)
	if a.Origin != budget.None {
		r.Limit, r.Window, r.Origin = a.Limit.Requests, a.Limit.Per(), a.Origin
	}
	if a.Counted() {
		r.Free = new(a.Free())
	}
	if a.Origin != budget.None || wait > 0 {
		r.Seconds = seconds(wait)
	}
	return nil
}

// NotBefore notes that a run takes at least this time.
func (t *Totals) NotBefore(d time.Duration) {
	if s := seconds(d); *s > 0 && (t.Seconds == nil || *t.Seconds < *s) {
		t.Seconds = s
	}
}

func seconds(d time.Duration) *int { return new(int(math.Ceil(d.Seconds()))) }
