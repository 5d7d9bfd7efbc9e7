package pruneplan

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

var (
	mirrorName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	grace      = regexp.MustCompile(`^(?:[0-9]{1,5}d|(?:[0-9]{1,9}(?:[.][0-9]{1,9})?(?:h|m|s|ms|us|µs|ns))+)$`)
)

// reader parses nodes and collects their problems.
type reader struct{ problems []problem }

func (r *reader) fail(node *yaml.Node, format string, args ...any) {
	r.problems = append(r.problems, problem{Line: node.Line, Text: fmt.Sprintf(format, args...)})
}

// field is the value of a key, or an item of a list. If it is absent, its node is nil.
type field struct {
	name string // "repositories[0].tags"
	node *yaml.Node
}

// mapping returns the values of a mapping. A missing required key is a problem, and so is a key that is
// neither required nor optional.
func (r *reader) mapping(node *yaml.Node, name string, required []string, optional ...string) map[string]field {
	fields := map[string]field{}
	if node.Kind != yaml.MappingNode {
		r.fail(node, "%s: expected a mapping, found %s", name, describe(node))
		return fields
	}
	prefix := name + "."
	if name == "the plan" {
		prefix = ""
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		_, again := fields[key.Value]
		switch {
		case !slices.Contains(required, key.Value) && !slices.Contains(optional, key.Value):
			r.fail(key, "%s: unknown key %q", name, key.Value)
		case again:
			r.fail(key, "%s: duplicate key %q", name, key.Value)
		default:
			fields[key.Value] = field{prefix + key.Value, value}
		}
	}
	for _, key := range required {
		if _, found := fields[key]; !found {
			r.fail(node, "%s: the key %q is missing", name, key)
		}
	}
	return fields
}

// items returns the items of a list.
func (r *reader) items(f field) (items []field) {
	if f.node == nil {
		return nil
	}
	if f.node.Kind != yaml.SequenceNode {
		hint := ""
		if f.node.ShortTag() == "!!null" {
			hint = "; write [] or remove its entry"
		}
		r.fail(f.node, "%s: expected a list, found %s%s", f.name, describe(f.node), hint)
		return nil
	}
	for i, node := range f.node.Content {
		items = append(items, field{fmt.Sprintf("%s[%d]", f.name, i), node})
	}
	return items
}

func (r *reader) text(f field) string {
	if f.node == nil {
		return ""
	}
	if f.node.Kind != yaml.ScalarNode || f.node.ShortTag() != "!!str" {
		hint := ""
		if f.node.Kind == yaml.ScalarNode && f.node.ShortTag() != "!!null" {
			hint = "; write " + strconv.Quote(f.node.Value) + " with the quotes"
		}
		r.fail(f.node, "%s: expected a string, found %s%s", f.name, describe(f.node), hint)
		return ""
	}
	return f.node.Value
}

// parsed returns a string, parsed with the given function.
func parsed[T any](r *reader, f field, parse func(string) (T, error)) (value T) {
	before := len(r.problems)
	text := r.text(f)
	if f.node == nil || len(r.problems) > before {
		return value
	}
	value, err := parse(text)
	if err != nil {
		r.fail(f.node, "%s: %v", f.name, err)
	}
	return value
}

func (r *reader) matching(f field, pattern *regexp.Regexp, expected string) string {
	before := len(r.problems)
	text := r.text(f)
	if f.node != nil && len(r.problems) == before && !pattern.MatchString(text) {
		r.fail(f.node, "%s: expected %s", f.name, expected)
	}
	return text
}

// number returns a whole number.
func (r *reader) number(f field) (n int64) {
	if f.node == nil {
		return 0
	}
	if f.node.Kind != yaml.ScalarNode || f.node.ShortTag() != "!!int" || f.node.Decode(&n) != nil || n < 0 {
		r.fail(f.node, "%s: expected a whole number, 0 or more, found %s", f.name, describe(f.node))
		return 0
	}
	return n
}

func (r *reader) boolean(f field) (value bool) {
	if f.node != nil && (f.node.Kind != yaml.ScalarNode || f.node.ShortTag() != "!!bool" || f.node.Decode(&value) != nil) {
		r.fail(f.node, "%s: expected true or false, found %s", f.name, describe(f.node))
	}
	return value
}

// time returns a time in the format of RFC 3339. YAML may parse it as a timestamp.
func (r *reader) time(f field) time.Time {
	if f.node == nil {
		return time.Time{}
	}
	if tag := f.node.ShortTag(); f.node.Kind == yaml.ScalarNode && (tag == "!!timestamp" || tag == "!!str") {
		if at, err := time.Parse(time.RFC3339Nano, f.node.Value); err == nil {
			return at
		}
	}
	r.fail(f.node, "%s: expected a time such as 2026-11-27T03:00:00Z, found %s", f.name, describe(f.node))
	return time.Time{}
}

// describe describes a node for messages.
func describe(node *yaml.Node) string {
	switch {
	case node.Kind == yaml.MappingNode:
		return "a mapping"
	case node.Kind == yaml.SequenceNode:
		return "a list"
	case node.Kind == yaml.AliasNode:
		return "an alias"
	case node.ShortTag() == "!!null":
		return "nothing"
	}
	return strings.ToValidUTF8(strconv.Quote(node.Value), "?")
}
