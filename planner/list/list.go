// Package list fetches and parses the list of images to mirror. It reports all problems of
// a list at once, with their lines.
package list

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// MaxBytes is the largest size of a list, in bytes. Such a list has about 300,000 entries, a thousand
// times as many as lists in use.
const MaxBytes = 16 << 20

// Entry is one item of a list.
type Entry struct {
	reference.Reference
	// Line is the line of the entry, counted from 1.
	Line int
	// Text is the image as the list has it.
	Text string
	// Destination is the repository at the destination, including the host.
	Destination reference.Repository
	// Selection selects the tags to mirror, and the contents of each. If the entry names a tag or a
	// digest, it has Contents only, because the defaults for tags do not apply.
	Selection selection.Selection

	namespace *Namespace // replaces the reference while the entry is parsed
}

// List holds the images to mirror, in the order of the source and without duplicates.
type List struct {
	Entries []Entry
	// Namespaces are the entries for all repositories of a namespace. Expand replaces them with
	// entries for repositories.
	Namespaces []Namespace
	// Warnings are for the user. Each is one line.
	Warnings []string
}

// Parse parses a list. It is a YAML mapping whose key "containers" has a sequence of strings, which
// package reference parses, and of mappings, which docs/list.schema.json describes. Other keys are
// ignored. The defaults, which must be valid, are the selection of entries without keys of their own.
// Messages name the source, from which the list was fetched, without secrets. The error is an
// ErrBadList with a line for each problem.
func Parse(data []byte, source string, dest reference.Destination, defaults selection.Selection) (List, error) {
	source = Shown(source)
	root, bad := document(data)
	if bad != nil {
		return List{}, newError(source, []problem{*bad})
	}
	nodes, problems := containers(root)
	r := reader{dest: dest, defaults: defaults}
	entries := r.entries(nodes)
	problems = append(problems, r.problems...)

	shareKeep(entries)
	entries, duplicates := unique(entries)
	problems = append(problems, clashes(entries)...)
	if len(problems) > 0 {
		return List{}, newError(source, problems)
	}
	l := List{Entries: entries, Namespaces: r.namespaces}
	for _, d := range duplicates {
		l.Warnings = append(l.Warnings, d.format(source))
	}
	return l, nil
}

// Has returns a function that reports whether the list has an image or, for a reference without tag
// and digest, a repository. An entry for a whole repository has the tags that its selection matches.
// Limits are ignored, because the list does not show which tags are the newest. A tag that belongs to
// another image, such as a signature, is in the list if any image of its repository is.
func (l List) Has() func(reference.Reference) bool {
	exact := make(map[reference.Reference]bool, len(l.Entries))
	for _, e := range l.Entries {
		exact[e.Reference] = true
	}
	matchers := l.matchers(func(e Entry) reference.Repository { return e.Repository })
	return func(r reference.Reference) bool {
		every, known := matchers[r.Repository]
		if n := l.namespaceOf(r.Repository); !known && n != nil {
			if r.Tag.IsZero() && r.Digest.IsZero() {
				return true
			}
			m, err := n.Selection.Compile() // valid, as Parse has checked
			every, known = append(every, m), err == nil
		}
		if !known || exact[r] {
			return known
		}
		if r.Tag.IsZero() || !r.Digest.IsZero() {
			return false
		}
		if _, companion := selection.Companion(r.Tag.String()); companion {
			return true
		}
		return slices.ContainsFunc(every, func(m *selection.Matcher) bool { return m.Match(r.Tag.String()) })
	}
}

// matchers returns matchers of the entries for whole repositories, by the repository that of returns. A
// repository of which the list only names images has an empty value.
func (l List) matchers(of func(Entry) reference.Repository) map[reference.Repository][]*selection.Matcher {
	all := map[reference.Repository][]*selection.Matcher{}
	for _, e := range l.Entries {
		every := all[of(e)]
		if e.DestinationTag().IsZero() {
			if m, err := e.Selection.Compile(); err == nil { // valid, as Parse has checked
				every = append(every, m)
			}
		}
		all[of(e)] = every
	}
	return all
}

// Lacks returns a function that returns why no entry mirrors to a tag of a destination, or "" if one
// does. Limits and ages are ignored, because the list does not show them.
func (l List) Lacks() holding.Lacks {
	type place struct {
		repository reference.Repository
		tag        reference.Tag
	}
	named := map[place]bool{}
	for _, e := range l.Entries {
		named[place{e.Destination, e.DestinationTag()}] = true
	}
	matchers := l.matchers(func(e Entry) reference.Repository { return e.Destination })
	return func(destination reference.Repository, tag reference.Tag) holding.Reason {
		every, known := matchers[destination]
		_, companion := selection.Companion(tag.String())
		switch {
		case !known && slices.ContainsFunc(l.Namespaces, func(n Namespace) bool { return n.mirrorsTo(destination) }):
			return holding.Unfound
		case !known:
			return holding.Unnamed
		case named[place{destination, tag}], companion:
			return ""
		case slices.ContainsFunc(every, func(m *selection.Matcher) bool { return m.Match(tag.String()) }):
			return ""
		case len(every) == 0: // the entries name other tags
			return holding.Unnamed
		}
		return holding.Unmatched
	}
}

// ErrBadList is returned for a list that was read but is not valid.
var ErrBadList = exit.Usage.New("bad list")

// problem is one mistake in a list.
type problem struct {
	// Line is counted from 1; 0 stands for the whole list.
	Line    int
	Message string
}

func (p problem) format(source string) string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", source, p.Message)
	}
	return fmt.Sprintf("%s:%d: %s", source, p.Line, p.Message)
}

// listError holds all problems of a list, in the order of its lines. errors.Is reports that it is an
// ErrBadList.
type listError struct {
	// Source is the source of the list, redacted.
	Source   string
	Problems []problem
}

// newError returns the error for problems. It names each once: a mistake in an anchor is found at each
// alias.
func newError(source string, problems []problem) *listError {
	known := map[problem]bool{}
	problems = slices.DeleteFunc(problems, func(p problem) bool {
		before := known[p]
		known[p] = true
		return before
	})
	slices.SortStableFunc(problems, func(a, b problem) int { return cmp.Compare(a.Line, b.Line) })
	return &listError{Source: source, Problems: problems}
}

// Error returns a line for each problem, in the format of compilers.
func (e *listError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.format(e.Source)
	}
	return strings.Join(lines, "\n")
}

// Is implements the interface of errors.Is.
func (e *listError) Is(target error) bool { return target == ErrBadList }
