package list

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// repositoryKeys are the keys of the mapping "repositories".
var repositoryKeys = []string{keyInclude, keyExclude}

// Namespace is an entry for the repositories of a namespace. Its expressions choose among them.
type Namespace struct {
	reference.Namespace
	// Line is the line of the entry, counted from 1.
	Line int
	// Text is the entry as the list has it.
	Text string
	// Selection is the selection of each repository.
	Selection selection.Selection
	// Min is how many repositories the namespace must have; 0 if the entry has no such key.
	Min int

	include, exclude []*regexp.Regexp // match the path below the namespace
	below            *string          // path at the destination; nil: that of the namespace
	dest             reference.Destination
}

// Chooses reports whether the entry mirrors a repository. If the destination is in the namespace, the
// repositories there are not mirrored again.
func (n Namespace) Chooses(r reference.Repository) bool {
	name, ok := n.Has(r)
	return ok && !strings.HasPrefix(r.String(), n.place()+"/") && n.matches(name)
}

// matches reports whether the expressions choose a path below the namespace.
func (n Namespace) matches(name string) bool {
	matches := func(re *regexp.Regexp) bool { return re.MatchString(name) }
	return (len(n.include) == 0 || slices.ContainsFunc(n.include, matches)) && !slices.ContainsFunc(n.exclude, matches)
}

// mirrorsTo reports whether the entry may mirror a repository to a destination.
func (n Namespace) mirrorsTo(destination reference.Repository) bool {
	name, below := strings.CutPrefix(destination.String(), n.place()+"/")
	return below && n.matches(name)
}

// place returns the common beginning of all destinations of the namespace, including the host.
func (n Namespace) place() string {
	path := n.Path()
	if n.below != nil {
		path = *n.below
	}
	return strings.TrimSuffix(n.dest.Repository(path), "/")
}

// isItself reports whether the namespace would be mirrored to itself.
func (n Namespace) isItself() bool { return n.String() == n.place()+"/*" }

func (n Namespace) destination(r reference.Repository) (reference.Repository, error) {
	path := r.Path()
	if n.below != nil {
		name, _ := n.Has(r)
		path = *n.below + "/" + name
	}
	return reference.ParseRepository(n.dest.Repository(path))
}

// namespace parses host/path/*.
func (r *reader) namespace(e *Entry, line int, text string) {
	n, err := reference.ParseNamespace(text)
	if err != nil {
		r.fail(line, "%v", err)
		return
	}
	e.Text, e.namespace = text, &Namespace{Namespace: n, dest: r.dest}
}

// finish returns the complete namespace of an entry.
func (e Entry) finish() Namespace {
	n := *e.namespace
	n.Line, n.Text, n.Selection = e.Line, e.Text, e.Selection
	return n
}

// namespaced reads the keys of a namespace. It reports whether the entry is for a namespace.
func (r *reader) namespaced(e *Entry, fields map[string]field) bool {
	chosen, chooses := fields[keyRepositories]
	least, bounded := fields[keyMinRepositories]
	if e.namespace == nil {
		for _, f := range []field{chosen, least} {
			if f.name != "" && !e.Repository.IsZero() {
				r.fail(f.line, "%s: %s is one repository; write a namespace, as quay.io/example/*, or remove %s", f.name, e.Text, f.name)
			}
		}
		return false
	}
	if bounded {
		if e.namespace.Min = r.number(least); e.namespace.Min == 0 {
			r.fail(least.line, "%s: expected 1 or more", least.name)
		}
	}
	if chooses {
		r.repositories(e.namespace, chosen)
	}
	if f, ok := fields[keyDestination]; ok {
		if path, ok := r.text(f); ok {
			probe := Entry{Reference: reference.Reference{Repository: e.namespace.Address()}}
			r.destination(&probe, f.line, path)
			e.namespace.below = &path
		}
	}
	return true
}

// repositories reads the expressions that choose repositories of a namespace.
func (r *reader) repositories(n *Namespace, f field) {
	if f.node.Kind != yaml.MappingNode || len(f.node.Content) == 0 {
		r.fail(f.line, "%s: expected a mapping with include, exclude or both, found %s", f.name, describe(f.node))
		return
	}
	fields := r.fields(f.node, repositoryKeys, keyRepositories, entryKeys)
	for key, into := range map[string]*[]*regexp.Regexp{keyInclude: &n.include, keyExclude: &n.exclude} {
		f, ok := fields[key]
		if !ok {
			continue
		}
		texts, lines := r.expressions(f)
		for i, text := range texts {
			re, err := selection.Expression(text)
			if err != nil {
				r.fail(lines[i], "%s[%d]: %v", f.name, i, err)
				continue
			}
			*into = append(*into, re)
		}
	}
}

// namespaceOf returns the first namespace that chooses a repository, or nil.
func (l List) namespaceOf(r reference.Repository) *Namespace {
	i := slices.IndexFunc(l.Namespaces, func(n Namespace) bool { return n.Chooses(r) })
	if i < 0 {
		return nil
	}
	return &l.Namespaces[i]
}

// Expand returns the list with an entry for each repository of its namespaces, in the position of the
// namespace. listed returns the repositories of the namespace with the given index. A repository that
// has entries of its own keeps them. A repository that belongs to several namespaces gets an entry for
// the first of them. A repository whose destination belongs to another one is left out with a warning,
// because a new repository upstream must not break the plan.
func (l List) Expand(listed func(index int) []reference.Repository) List {
	named, owner := map[reference.Repository]bool{}, map[reference.Repository]reference.Repository{}
	for _, e := range l.Entries {
		named[e.Repository], owner[e.Destination] = true, e.Repository
	}
	expanded := l
	expanded.Entries, expanded.Warnings = slices.Clone(l.Entries), slices.Clone(l.Warnings)
	for i, n := range l.Namespaces {
		for _, r := range listed(i) {
			if named[r] || !n.Chooses(r) {
				continue
			}
			to, err := n.destination(r)
			if first, taken := owner[to]; err == nil && taken {
				err = fmt.Errorf("%s is mirrored to %s", first, to)
			}
			if err != nil {
				expanded.Warnings = append(expanded.Warnings, fmt.Sprintf("%s of %s in line %d is not mirrored: %v", r, n.Text, n.Line, err))
				continue
			}
			named[r], owner[to] = true, r
			expanded.Entries = append(expanded.Entries, Entry{
				Reference: reference.Reference{Repository: r}, Line: n.Line, Text: r.String(), Destination: to, Selection: n.Selection,
			})
		}
	}
	slices.SortStableFunc(expanded.Entries, func(a, b Entry) int { return a.Line - b.Line })
	return expanded
}
