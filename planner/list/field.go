package list

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/osism/skopeo-worker/shared/selection"
)

// maxLimit is the largest number in a list. Every parser of YAML and JSON can hold it.
const maxLimit = math.MaxInt32

// field is one key of a mapping.
type field struct {
	name string // "tags.include"
	line int
	node *yaml.Node // resolved
}

// fields returns the fields of a mapping. Keys that are not in keys are problems. other are valid keys of
// other mappings, for advice.
func (r *reader) fields(node *yaml.Node, keys []string, parent string, other []string) map[string]field {
	found := map[string]field{}
	var merged []*yaml.Node
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := resolve(node.Content[i]), node.Content[i+1]
		line := node.Content[i].Line
		name := key.Value
		if parent != "" {
			name = parent + "." + name
		}
		first, again := found[key.Value]
		switch {
		case key.ShortTag() == "!!merge":
			merged = append(merged, value)
		case key.Kind != yaml.ScalarNode:
			r.fail(line, "expected a key, one of %s, found %s", enumerate(keys), describe(key))
		case again:
			r.fail(line, "duplicate key %q, first in line %d", name, first.line)
		case !slices.Contains(keys, key.Value):
			r.fail(line, "unknown key %q%s", name, suggest(key.Value, keys, other))
		default:
			found[key.Value] = field{name: name, line: line, node: resolve(value)}
		}
	}
	for _, m := range merged {
		r.merge(found, m, keys, parent, other)
	}
	return found
}

// merge adds the fields of a merge key of YAML ("<<") that found lacks.
func (r *reader) merge(found map[string]field, value *yaml.Node, keys []string, parent string, other []string) {
	sources := []*yaml.Node{value}
	if node := resolve(value); node.Kind == yaml.SequenceNode {
		sources = node.Content
	}
	for _, source := range sources {
		node := resolve(source)
		if node.Kind != yaml.MappingNode {
			r.fail(source.Line, "expected a mapping to merge, found %s", describe(node))
			continue
		}
		for key, f := range r.fields(node, keys, parent, other) {
			if _, own := found[key]; !own {
				found[key] = f
			}
		}
	}
}

// text reads a string.
func (r *reader) text(f field) (string, bool) {
	if found := notString(f.node); found != "" {
		r.fail(f.line, "%s: expected a string, found %s%s", f.name, found, inQuotes(f.node))
		return "", false
	}
	return f.node.Value, true
}

// items reads a list of one or more strings.
func (r *reader) items(f field) (items []string, lines []int) {
	if f.node.Kind != yaml.SequenceNode {
		r.fail(f.line, "%s: expected a list of strings, found %s", f.name, describe(f.node))
		return nil, nil
	}
	if len(f.node.Content) == 0 {
		r.fail(f.line, "%s: the list is empty; leave out the key instead", f.name)
	}
	for _, node := range f.node.Content {
		item := resolve(node)
		if found := notString(item); found != "" {
			r.fail(node.Line, "%s: expected a list of strings, found %s in it%s", f.name, found, inQuotes(item))
			return nil, nil
		}
		items, lines = append(items, item.Value), append(lines, node.Line)
	}
	return items, lines
}

// expressions reads a regular expression, or a list of them.
func (r *reader) expressions(f field) (texts []string, lines []int) {
	if f.node.Kind == yaml.ScalarNode && notString(f.node) == "" {
		return []string{f.node.Value}, []int{f.line}
	}
	return r.items(f)
}

func (r *reader) age(f field) selection.Age {
	text, ok := r.text(f)
	if !ok {
		return 0
	}
	age, err := selection.ParseAge(text)
	if err != nil {
		r.fail(f.line, "%s: %v", f.name, err)
	}
	return age
}

func (r *reader) boolean(f field) bool {
	var value bool
	if f.node.ShortTag() != "!!bool" || f.node.Decode(&value) != nil {
		found := cmp.Or(notString(f.node), "a string")
		r.fail(f.line, "%s: expected true or false, found %s", f.name, found)
	}
	return value
}

func (r *reader) number(f field) int {
	var value float64
	tag := f.node.ShortTag()
	if tag != "!!int" && tag != "!!float" || f.node.Decode(&value) != nil || value != math.Trunc(value) || value < 0 || value > maxLimit {
		r.fail(f.line, "%s: expected a whole number, 0 or more, found %s", f.name, describe(f.node))
		return 0
	}
	return int(value)
}

// inQuotes returns advice for a tag such as 1.25, which YAML parses as a number.
func inQuotes(node *yaml.Node) string {
	if node.Kind != yaml.ScalarNode || node.ShortTag() == "!!null" || strings.Contains(node.Value, `"`) {
		return ""
	}
	return `; write "` + node.Value + `" with the quotes`
}

// suggest returns advice with the most similar key, if it differs in at most one character of three. It
// prefers keys to others, which belong to other mappings.
func suggest(unknown string, keys, others []string) string {
	folded := strings.ToLower(unknown)
	best, nearest := "", math.MaxInt
	for _, key := range append(keys[:len(keys):len(keys)], others...) {
		name := key[strings.LastIndexByte(key, '.')+1:]
		typos := max(1, len(name)/3)
		if len(folded) > len(name)+typos {
			continue // an unknown key may be very long
		}
		if d := distance(folded, name); d <= typos && d < nearest {
			best, nearest = key, d
		}
	}
	switch {
	case best == "":
		return ", expected one of " + enumerate(keys)
	case !slices.Contains(keys, best):
		return "; it belongs elsewhere, as " + strconv.Quote(best)
	default:
		return "; is " + strconv.Quote(best) + " meant?"
	}
}

// distance returns the optimal string alignment distance. It counts insertions, deletions,
// substitutions, and swaps of neighbours.
func distance(a, b string) int {
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, change)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

func prefixed(parent string, keys []string) []string {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = parent + "." + key
	}
	return names
}

func enumerate(keys []string) string { return strings.Join(keys, ", ") }
