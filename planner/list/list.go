// Package list reads the list of what is to be mirrored: it fetches it, parses
// it, and refuses it with every mistake at once, by line.
package list

import (
	"fmt"

	"gopkg.in/yaml.v3"

	"github.com/osism/skopeo-worker/shared/reference"
)

// MaxBytes is the largest list that is read, in bytes: about 300,000 entries,
// and a thousand times the lists in use.
const MaxBytes = 16 << 20

// Entry is one item of a list.
type Entry struct {
	reference.Reference
	// Line is where the entry stands, counted from 1.
	Line int
	// Text is the entry as it was written.
	Text string
	// Destination is the repository that it is mirrored to, host included.
	Destination string
}

// List is what is to be mirrored, in the order of the source and without
// duplicates.
type List struct {
	Entries []Entry
	// Warnings are for the user, a line each.
	Warnings []string
}

// Parse reads a YAML mapping with the key "containers", a sequence of strings
// as package reference reads them. Other keys are ignored. The source is what
// the list was fetched from and stands, redacted, in every message. The error
// is an *Error with every problem there is.
func Parse(data []byte, source string, dest reference.Destination) (List, error) {
	source = Redact(source)
	root, problem := document(data)
	if problem != nil {
		return List{}, &Error{Source: source, Problems: []Problem{*problem}}
	}
	nodes, problems := containers(root)
	entries, more := parseEntries(nodes, dest)
	problems = append(problems, more...)

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

func parseEntries(nodes []*yaml.Node, dest reference.Destination) ([]Entry, []Problem) {
	var entries []Entry
	var problems []Problem
	for _, node := range nodes {
		entry, err := parseEntry(node, dest)
		if err != nil {
			problems = append(problems, Problem{Line: node.Line, Message: err.Error()})
			continue
		}
		entries = append(entries, entry)
	}
	return entries, problems
}

func parseEntry(node *yaml.Node, dest reference.Destination) (Entry, error) {
	value := resolve(node)
	if found := notString(value); found != "" {
		return Entry{}, fmt.Errorf("expected a string host/path[:tag][@digest], found %s", found)
	}
	ref, err := reference.Parse(value.Value)
	if err != nil {
		return Entry{}, err
	}
	target, err := reference.Parse(dest.Repository(ref.Path))
	if err != nil {
		return Entry{}, fmt.Errorf("%s can't be named at the destination: %w", ref.Repository(), err)
	}
	return Entry{Reference: ref, Line: node.Line, Text: value.Value, Destination: target.Repository()}, nil
}
