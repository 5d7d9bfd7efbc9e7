// Package list reads the list of what is to be mirrored: it fetches it, parses
// it, and refuses it with every mistake at once, by line.
package list

import (
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// MaxBytes is the largest list that is read, in bytes: about 300,000 entries,
// and a thousand times the lists in use.
const MaxBytes = 16 << 20

// Entry is one item of a list.
type Entry struct {
	reference.Reference
	// Line is where the entry stands, counted from 1.
	Line int
	// Text is the image as it was written.
	Text string
	// Destination is the repository that it is mirrored to, host included.
	Destination reference.Repository
	// Selection is which tags are mirrored, and what of each. With a tag or a digest
	// it has Contents only: what is named is mirrored, whatever the defaults say.
	Selection selection.Selection
}

// List is what is to be mirrored, in the order of the source and without
// duplicates.
type List struct {
	Entries []Entry
	// Warnings are for the user, a line each.
	Warnings []string
}

// Parse reads a YAML mapping with the key "containers", a sequence of strings as
// package reference reads them, and of mappings as docs/list.schema.json describes
// them. Other keys than "containers" are ignored. An entry's selection is the
// defaults, which have to be valid, where it has no keys of its own. The source is
// what the list was fetched from and stands, redacted, in every message. The error
// is an *Error with every problem there is.
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

	entries, duplicates := unique(entries)
	problems = append(problems, clashes(entries)...)
	if len(problems) > 0 {
		return List{}, newError(source, problems)
	}
	l := List{Entries: entries}
	for _, d := range duplicates {
		l.Warnings = append(l.Warnings, d.format(source))
	}
	return l, nil
}
