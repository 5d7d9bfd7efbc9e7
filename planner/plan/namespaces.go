package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/planner/list"
	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/outcome"
)

// maxNamed bounds how many repositories a warning names.
const maxNamed = 5

var (
	// ErrNamespace is returned if a namespace could not be listed and nothing is known of it.
	ErrNamespace = exit.Unreachable.New("a namespace could not be listed")
	// ErrFewRepositories is returned if a namespace has fewer repositories than its entry
	// demands, and nothing is known of it.
	ErrFewRepositories = exit.Usage.New("a namespace has too few repositories")
)

// Lister lists the repositories of namespaces.
type Lister interface {
	List(ctx context.Context, n reference.Namespace) (listing.Repositories, error)
}

// Namespaces makes entries of the namespaces of a list. It stores at the broker which repositories
// each namespace had, by mirror name, so that a registry that is away, or suddenly lists fewer
// repositories, takes nothing out of a plan.
type Namespaces struct {
	Broker *broker.Broker
	Name   string // of the mirror
	Lister Lister
	// Failed are the namespaces that could not be listed, or listed too little, with the reasons.
	// Expand adds what they had instead.
	Failed []Failed

	noted map[string]namespaceNote // by key, to be remembered
}

// Failed is a namespace of which not all is known that it has.
type Failed struct {
	list.Namespace
	Why string
}

func (f Failed) String() string { return fmt.Sprintf("%s in line %d: %s", f.Text, f.Line, f.Why) }

// Expand returns the list with the repositories of its namespaces, and sets Failed. What else is
// unusual about them is among the warnings of the list. The error is ErrNamespace,
// ErrFewRepositories, or of the broker.
func (x *Namespaces) Expand(ctx context.Context, l list.List) (list.List, error) {
	kv, err := x.bucket(ctx)
	if err != nil {
		return l, err
	}
	x.noted, x.Failed = map[string]namespaceNote{}, nil
	chosen := map[int][]reference.Repository{} // by line
	kept := map[string]bool{}                  // notes that stay as they are, by key
	var warnings []string
	for _, n := range l.Namespaces {
		last, err := readNote(ctx, kv, namespaceKey(x.Name, n), n)
		if err != nil {
			return l, err
		}
		last.Repositories = of(n, last.Repositories)
		found, err := x.Lister.List(ctx, n.Namespace)
		if ctx.Err() != nil {
			return l, ctx.Err()
		}
		now := of(n, found.Found)
		failed, gone, used, err := weigh(n, last, now, err)
		if err != nil {
			return l, err
		}
		if failed != "" {
			x.Failed = append(x.Failed, Failed{n, failed})
		}
		var said []string
		if len(gone) > 0 {
			said = append(said, "no longer listed, and no longer mirrored: "+named(len(gone), func(i int) string { return gone[i].String() }))
		}
		if len(found.Invalid) > 0 {
			said = append(said, fmt.Sprintf("it lists names that no repository can have: %s", named(len(found.Invalid), func(i int) string { return reference.Quote(found.Invalid[i]) })))
		}
		for _, s := range said {
			warnings = append(warnings, fmt.Sprintf("%s in line %d: %s", n.Text, n.Line, s))
		}
		chosen[n.Line] = used
		// Two entries may choose different repositories of a namespace: all are remembered.
		key := namespaceKey(x.Name, n)
		if kept[key] = kept[key] || !slices.Equal(used, now); kept[key] {
			delete(x.noted, key)
		} else {
			x.noted[key] = namespaceNote{Namespace: n.Namespace.String(), Repositories: found.Found, Listed: time.Now().UTC()}
		}
	}
	expanded := l.Expand(func(n list.Namespace) []reference.Repository { return chosen[n.Line] })
	expanded.Warnings = append(expanded.Warnings, warnings...)
	return expanded, nil
}

// of returns the repositories that an entry chooses.
func of(n list.Namespace, all []reference.Repository) []reference.Repository {
	return slices.DeleteFunc(slices.Clone(all), func(r reference.Repository) bool { return !n.Chooses(r) })
}

// weigh decides which repositories of a namespace are mirrored: those that are listed now, or, if
// the listing has failed or is suspiciously short, those of the last time as well. Then it returns
// the reason, and otherwise what is no longer listed.
func weigh(n list.Namespace, last namespaceNote, now []reference.Repository, err error) (failed string, gone, used []reference.Repository, _ error) {
	had := len(last.Repositories)
	instead := fmt.Sprintf("the %d repositories of %s are mirrored instead", had, last.Listed.Local().Format(time.DateTime))
	switch {
	case err != nil && had > 0:
		return fmt.Sprintf("it could not be listed: %s; %s", outcome.Reason(err), instead), nil, last.Repositories, nil
	case errors.Is(err, listing.ErrNoNamespace):
		return "", nil, nil, fmt.Errorf("%s in line %d: %w", n.Text, n.Line, err)
	case err != nil:
		return "", nil, nil, fmt.Errorf("%w: %s in line %d: %s; nothing was published", ErrNamespace, n.Text, n.Line, outcome.Reason(err))
	case len(now) < max(1, n.Min) && had == 0:
		return "", nil, nil, fmt.Errorf("%w: %s in line %d: %d are listed and chosen, expected at least %d; nothing was published", ErrFewRepositories, n.Text, n.Line, len(now), max(1, n.Min))
	case len(now) < max(1, n.Min):
		return fmt.Sprintf("it lists only %d repositories, expected at least %d; %s", len(now), max(1, n.Min), instead), nil, union(last.Repositories, now), nil
	case n.Min == 0 && 2*len(now) < had:
		return fmt.Sprintf("it lists only %d repositories; %s; set min_repositories to accept fewer", len(now), instead), nil, union(last.Repositories, now), nil
	}
	listed := map[reference.Repository]bool{}
	for _, r := range now {
		listed[r] = true
	}
	gone = slices.DeleteFunc(slices.Clone(last.Repositories), func(r reference.Repository) bool { return listed[r] })
	return "", gone, now, nil
}

// union returns the repositories of both, each once.
func union(a, b []reference.Repository) []reference.Repository {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(a, b reference.Repository) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(all)
}

// named names some of n things.
func named(n int, name func(int) string) string {
	var names []string
	for i := range min(n, maxNamed) {
		names = append(names, name(i))
	}
	text := strings.Join(names, ", ")
	if n > maxNamed {
		text += fmt.Sprintf(" and %d more", n-maxNamed)
	}
	return text
}
