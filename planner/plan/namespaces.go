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
	// errNamespace is returned if a namespace cannot be listed and has no note of an earlier plan.
	errNamespace = exit.Unreachable.New("a namespace could not be listed")
	// errFewRepositories is returned if a namespace lists fewer repositories than its entry requires, and
	// has no note of an earlier plan.
	errFewRepositories = exit.Usage.New("a namespace has too few repositories")
)

// lister lists the repositories of namespaces.
type lister interface {
	List(ctx context.Context, n reference.Namespace) (listing.Repositories, error)
}

// Namespaces replaces the namespaces of a list with entries for their repositories. It stores at the
// broker which repositories each namespace had, by mirror name. Thus, a registry that is away, or that
// suddenly lists fewer repositories, removes nothing from a plan.
type Namespaces struct {
	Broker *broker.Broker
	Name   string // mirror name
	Lister lister
	// Failed are the namespaces that could not be listed, or that listed too few repositories. Expand
	// uses the repositories of the last plan for them.
	Failed []failedNamespace

	noted map[string]namespaceNote // notes to store, by key
}

// failedNamespace is a namespace that could not be listed completely.
type failedNamespace struct {
	list.Namespace
	Why string
}

func (f failedNamespace) String() string {
	return fmt.Sprintf("%s in line %d: %s", f.Text, f.Line, f.Why)
}

// Expand returns the list with the repositories of its namespaces, and sets Failed. It adds warnings
// about repositories that are no longer listed or have invalid names. The error is errNamespace,
// errFewRepositories, or an error of the broker.
func (x *Namespaces) Expand(ctx context.Context, l list.List) (list.List, error) {
	kv, err := x.bucket(ctx)
	if err != nil {
		return l, err
	}
	x.noted, x.Failed = map[string]namespaceNote{}, nil
	var chosen [][]reference.Repository // of each namespace
	kept := map[string]bool{}           // keys of notes that are not replaced
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
			x.Failed = append(x.Failed, failedNamespace{n, failed})
		}
		if len(gone) > 0 {
			warnings = append(warnings, fmt.Sprintf("%s in line %d: no longer listed, and no longer mirrored: %s", n.Text, n.Line, named(gone, reference.Repository.String)))
		}
		if len(found.Invalid) > 0 {
			warnings = append(warnings, fmt.Sprintf("%s in line %d: it lists names that no repository can have: %s", n.Text, n.Line, named(found.Invalid, reference.Quote)))
		}
		chosen = append(chosen, used)
		// Several entries may share the note of a namespace. It has all repositories of the namespace,
		// and is replaced only if all of these entries use what is listed now.
		key := namespaceKey(x.Name, n)
		if kept[key] = kept[key] || !slices.Equal(used, now); kept[key] {
			delete(x.noted, key)
		} else {
			x.noted[key] = namespaceNote{Namespace: n.Namespace.String(), Repositories: found.Found, Listed: time.Now().UTC()}
		}
	}
	expanded := l.Expand(func(i int) []reference.Repository { return chosen[i] })
	expanded.Warnings = append(expanded.Warnings, warnings...)
	return expanded, nil
}

// of returns the repositories that the entry chooses.
func of(n list.Namespace, all []reference.Repository) []reference.Repository {
	return slices.DeleteFunc(slices.Clone(all), func(r reference.Repository) bool { return !n.Chooses(r) })
}

// weigh decides which repositories of a namespace are used. If the listing has failed or is suspiciously
// short, these include those of the last plan, and failed is the reason. Otherwise they are the listed
// ones, and gone are those that are no longer listed.
func weigh(n list.Namespace, last namespaceNote, now []reference.Repository, err error) (failed string, gone, used []reference.Repository, _ error) {
	had := len(last.Repositories)
	instead := fmt.Sprintf("the %d repositories of %s are mirrored instead", had, last.Listed.Local().Format(time.DateTime))
	switch {
	case err != nil && had > 0:
		return fmt.Sprintf("it could not be listed: %s; %s", outcome.Reason(err), instead), nil, last.Repositories, nil
	case errors.Is(err, listing.ErrNoNamespace):
		return "", nil, nil, fmt.Errorf("%s in line %d: %w", n.Text, n.Line, err)
	case err != nil:
		return "", nil, nil, fmt.Errorf("%w: %s in line %d: %s; nothing was published", errNamespace, n.Text, n.Line, outcome.Reason(err))
	case len(now) < max(1, n.Min) && had == 0:
		return "", nil, nil, fmt.Errorf("%w: %s in line %d: %d are listed and chosen, expected at least %d; nothing was published", errFewRepositories, n.Text, n.Line, len(now), max(1, n.Min))
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

// union returns the repositories of a and b, sorted and without duplicates.
func union(a, b []reference.Repository) []reference.Repository {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(a, b reference.Repository) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(all)
}

// named returns the first names and the number of the others.
func named[T any](all []T, name func(T) string) string {
	var names []string
	for _, one := range all[:min(len(all), maxNamed)] {
		names = append(names, name(one))
	}
	text := strings.Join(names, ", ")
	if more := len(all) - maxNamed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
