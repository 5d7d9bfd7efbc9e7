package list

import (
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"
)

// key is the one key of a list that is read.
const key = "containers"

// nearMisses are keys that a user may have written instead of it.
var nearMisses = map[string]bool{
	"container": true, "conatiners": true, "contaners": true, "contianers": true,
	"image": true, "images": true, "repositories": true,
}

// containers finds the entries, and what is wrong around them.
func containers(root *yaml.Node) ([]*yaml.Node, []Problem) {
	if root.Kind != yaml.MappingNode {
		return nil, []Problem{{Line: root.Line, Message: fmt.Sprintf("expected a mapping with the key %q, found %s", key, describe(root))}}
	}
	var value *yaml.Node
	var near string
	var problems []Problem
	seen := map[string]int{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		name := resolve(root.Content[i])
		line := root.Content[i].Line
		if name.Kind != yaml.ScalarNode {
			continue
		}
		if first, again := seen[name.Value]; again {
			problems = append(problems, Problem{Line: line, Message: fmt.Sprintf("duplicate key %q, first in line %d", name.Value, first)})
			continue
		}
		seen[name.Value] = line
		switch folded := strings.ToLower(strings.TrimSpace(name.Value)); {
		case name.Value == key:
			value = root.Content[i+1]
		case near == "" && (folded == key || nearMisses[folded]):
			near = fmt.Sprintf("; is %q in line %d meant?", name.Value, line)
		}
	}
	if value == nil {
		return nil, append(problems, Problem{Message: fmt.Sprintf("the key %q is missing%s", key, near)})
	}
	nodes, problem := sequence(value)
	if problem != nil {
		problems = append(problems, *problem)
	}
	return nodes, problems
}

func sequence(value *yaml.Node) ([]*yaml.Node, *Problem) {
	node := resolve(value)
	switch {
	case node.Kind != yaml.SequenceNode && node.ShortTag() != "!!null":
		return nil, &Problem{Line: value.Line, Message: fmt.Sprintf("expected a list under %q, found %s", key, describe(node))}
	case len(node.Content) == 0:
		return nil, &Problem{Line: value.Line, Message: fmt.Sprintf("the list under %q is empty", key)}
	}
	return node.Content, nil
}

// notString says what a node is if it is no string. What YAML 1.1 takes for a
// boolean is none: other readers of the same list do not see a string there.
func notString(node *yaml.Node) string {
	if node.Kind != yaml.ScalarNode || node.ShortTag() != "!!str" {
		return describe(node)
	}
	if node.Style == 0 {
		switch strings.ToLower(node.Value) {
		case "yes", "no", "on", "off":
			return "the boolean " + node.Value
		}
	}
	return ""
}

// describe names a node as a user would.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch tag := node.ShortTag(); tag {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "the boolean " + node.Value
	case "!!int", "!!float":
		return "the number " + node.Value
	case "!!timestamp":
		return "the date " + node.Value
	case "!!str":
		return "a string"
	default:
		return "a value tagged " + tag
	}
}
