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

// MaxBytes is the largest list that is read, in bytes: about 300,000 entries,
// and a thousand times the lists in use.
const MaxBytes = 16 << 20

// Entry is one item of a list.
type Entry struct {
	reference.Reference
	// Line is the line of the entry, counted from 1.
	Line int
	// Text is the image as it was written.
	Text string
	// Destination is the repository that it is mirrored to, host included.
	Destination reference.Repository
	// Selection is which tags are mirrored, and which contents of each. With a tag or a
	// digest, it has Contents only: a named image is mirrored whatever the defaults are.
	Selection selection.Selection

	namespace *Namespace // instead of a reference, while it is read
}

// List is the images to mirror, in the order of the source and without duplicates.
type List struct {
	Entries []Entry
	// Namespaces are the entries for all repositories of a namespace. Expand makes entries of
	// them.
	Namespaces []Namespace
	// Warnings are for the user, a line each.
	Warnings []string
}

// Parse reads a YAML mapping with the key "containers", a sequence of strings as package
// reference reads them, and of mappings as docs/list.schema.json describes them. Other keys
// than "containers" are ignored. The defaults, which must be valid, are the selection of an
// entry without keys of its own. The source is what the list was fetched from; messages
// name it without secrets. The error is an *Error with all problems.
func Parse(data []byte, source string, dest reference.Destination, defaults selection.Selection) (List, error) {
	source = Shown(source)
	root, problem := document(data)
	if problem != nil {
		return List{}, &Error{Source: source, Problems: []Problem{*problem}}
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

// Has returns a function that reports whether the list has an image or, for a reference
// without tag and digest, a whole repository. An entry for a whole repository has the tags
// that its selection matches. Its limit does not count, because only the source knows which
// tags are the newest. The list has a tag that belongs to another image, such as a
// signature, if it has any image of that repository.
func (l List) Has() func(reference.Reference) bool {
	exact := make(map[reference.Reference]bool, len(l.Entries))
	// matchers has every repository of the list; those of which it names images only have none.
	matchers := make(map[reference.Repository][]*selection.Matcher)
	for _, e := range l.Entries {
		exact[e.Reference] = true
		every := matchers[e.Repository]
		if e.Tag.IsZero() && e.Digest.IsZero() {
			if m, err := e.Selection.Compile(); err == nil { // Parse has checked it
				every = append(every, m)
			}
		}
		matchers[e.Repository] = every
	}
	return func(r reference.Reference) bool {
		every, known := matchers[r.Repository]
		if n := l.namespaceOf(r.Repository); !known && n != nil {
			if r.Tag.IsZero() && r.Digest.IsZero() {
				return true
			}
			m, err := n.Selection.Compile() // Parse has checked it
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

// Lacks returns a function that returns why no entry mirrors to a tag of a destination, or "" if one
// does, as far as the list shows: limits and times do not count, because only the source knows
// them.
func (l List) Lacks() holding.Lacks {
	type place struct {
		repository reference.Repository
		tag        reference.Tag
	}
	named := map[place]bool{}
	matchers := map[reference.Repository][]*selection.Matcher{}
	for _, e := range l.Entries {
		every := matchers[e.Destination]
		if tag := e.DestinationTag(); !tag.IsZero() {
			named[place{e.Destination, tag}] = true
		} else if m, err := e.Selection.Compile(); err == nil { // Parse has checked it
			every = append(every, m)
		}
		matchers[e.Destination] = every
	}
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

// Problem is one mistake in a list.
type Problem struct {
	// Line is counted from 1; 0 is the list as a whole.
	Line    int
	Message string
}

func (p Problem) format(source string) string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", source, p.Message)
	}
	return fmt.Sprintf("%s:%d: %s", source, p.Line, p.Message)
}

// Error holds all problems of a list, in the order of its lines. It is an ErrBadList.
type Error struct {
	// Source is what the list was fetched from, redacted.
	Source   string
	Problems []Problem
}

func newError(source string, problems []Problem) *Error {
	slices.SortStableFunc(problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return &Error{Source: source, Problems: problems}
}

// Error returns a line for each problem, as compilers print them.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.format(e.Source)
	}
	return strings.Join(lines, "\n")
}

// Is makes every Error an ErrBadList.
func (e *Error) Is(target error) bool { return target == ErrBadList }
