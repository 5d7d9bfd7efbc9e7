package list

import (
	"fmt"

	"gopkg.in/yaml.v3"
)

// maxNodes is how many YAML nodes a list may have once its aliases are
// expanded: three times what fits into MaxBytes as entries.
const maxNodes = 1_000_000

// expansion counts the nodes of a document as if its aliases were expanded,
// without doing it: an anchor is counted once and remembered.
type expansion struct {
	// anchors has the size of each anchored node; 0 while it is being counted.
	anchors map[*yaml.Node]int
	problem *Problem
}

func checkExpansion(root *yaml.Node) *Problem {
	e := expansion{anchors: map[*yaml.Node]int{}}
	e.size(root)
	return e.problem
}

func (e *expansion) size(node *yaml.Node) int {
	if node.Kind == yaml.AliasNode {
		// An alias can only name what stands before it or around it.
		size := e.anchors[node.Alias]
		if size == 0 {
			e.fail(node, fmt.Sprintf("alias *%s stands for something that contains it", node.Value))
		}
		return size
	}
	if node.Anchor != "" {
		e.anchors[node] = 0
	}
	size := 1
	for _, child := range node.Content {
		size += e.size(child)
		if size > maxNodes {
			e.fail(child, fmt.Sprintf("the list expands to more than %d YAML nodes", maxNodes))
		}
		if e.problem != nil {
			return size
		}
	}
	if node.Anchor != "" {
		e.anchors[node] = size
	}
	return size
}

func (e *expansion) fail(node *yaml.Node, message string) {
	if e.problem == nil {
		e.problem = &Problem{Line: node.Line, Message: message}
	}
}

// resolve follows aliases; what checkExpansion has passed has no cycles.
func resolve(node *yaml.Node) *yaml.Node {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node
}
