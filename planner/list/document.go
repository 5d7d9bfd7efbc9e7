package list

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

const htmlPage = "this is an HTML page, not YAML; is this the address of the raw file?"

var (
	utf8BOM = []byte("\xef\xbb\xbf")
	// yamlLine matches the line number in a syntax error of yaml.v3.
	yamlLine = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?`)
	// parserError matches messages of the parser of yaml.v3. It counts lines from 0, while the scanner
	// counts from 1.
	parserError = regexp.MustCompile(`^did not find expected (?:<document start>|',' or|'-' indicator|key|node content)`)
)

// document parses a list, which must be a single YAML document. It does not expand aliases, because a
// small file could fill the memory that way.
func document(data []byte) (*yaml.Node, *problem) {
	if len(data) > MaxBytes {
		return nil, tooLarge()
	}
	data = bytes.TrimPrefix(data, utf8BOM)
	if p := checkText(data); p != nil {
		return nil, p
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, &problem{Message: "the list is empty"}
	} else if err != nil {
		return nil, syntaxProblem(data, err)
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		return nil, &problem{Line: second.Line, Message: "a second YAML document starts here, expected one"}
	case !errors.Is(err, io.EOF):
		return nil, syntaxProblem(data, err)
	}
	root := doc.Content[0]
	if root.ShortTag() == "!!null" {
		return nil, &problem{Message: "the list is empty"}
	}
	return root, checkExpansion(root)
}

// checkText refuses a list that is not UTF-8 text. yaml.v3 would misread it, or refuse it without a
// line number.
func checkText(data []byte) *problem {
	if looksLikeUTF16(data) {
		return &problem{Message: "the list is in UTF-16, expected UTF-8"}
	}
	if i := bytes.IndexFunc(data, isControl); i >= 0 {
		r, _ := utf8.DecodeRune(data[i:])
		what := "this is not a text file"
		if r >= utf8.RuneSelf { // often a dash or a quote of another encoding
			what = "was the list converted from another encoding?"
		}
		return &problem{Line: lineAt(data, i), Message: fmt.Sprintf("control character 0x%02x; %s", r, what)}
	}
	if i := invalidUTF8(data); i >= 0 {
		return &problem{Line: lineAt(data, i), Message: fmt.Sprintf("byte 0x%02x is not UTF-8; is the list in another encoding?", data[i])}
	}
	// "<<" is YAML's merge key.
	if start := bytes.TrimSpace(data); bytes.HasPrefix(start, []byte("<")) && !bytes.HasPrefix(start, []byte("<<")) {
		return &problem{Message: htmlPage}
	}
	return nil
}

// looksLikeUTF16 reports whether the list begins with a byte order mark of UTF-16, or with a zero byte
// in its first ASCII character.
func looksLikeUTF16(data []byte) bool {
	if len(data) < 2 {
		return false
	}
	bom := data[0] == 0xff && data[1] == 0xfe || data[0] == 0xfe && data[1] == 0xff
	return bom || (data[0] == 0) != (data[1] == 0)
}

// isControl reports whether r is a character that YAML forbids (YAML 1.2, section 5.1).
func isControl(r rune) bool {
	return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r >= '\x7f' && r < '\u00a0' && r != '\u0085' || r == '\ufffe' || r == '\uffff'
}

func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

func lineAt(data []byte, offset int) int {
	return 1 + bytes.Count(data[:offset], []byte("\n"))
}

func syntaxProblem(data []byte, err error) *problem {
	line, message := Syntax(data, err)
	return &problem{Line: line, Message: message}
}

// Syntax describes an error of yaml.v3 in a text. The line is counted from 1; it is 0 if the error has none.
func Syntax(data []byte, err error) (line int, message string) {
	text := err.Error()
	match := yamlLine.FindStringSubmatch(text)
	if match == nil {
		return 0, "broken YAML: " + text
	}
	line, _ = strconv.Atoi(match[1])
	text = text[len(match[0]):]
	if parserError.MatchString(text) {
		line++
	}
	if isTabbed(data, line) {
		return line, "broken YAML: the line is indented with a tab, expected spaces"
	}
	return line, "broken YAML: " + text
}

// isTabbed reports whether the indentation of a line contains a tab.
func isTabbed(data []byte, number int) bool {
	lines := bytes.Split(data, []byte("\n"))
	if number < 1 || number > len(lines) {
		return false
	}
	text := lines[number-1]
	return bytes.IndexByte(text[:len(text)-len(bytes.TrimLeft(text, " \t"))], '\t') >= 0
}

func tooLarge() *problem {
	return &problem{Message: fmt.Sprintf("the list is larger than %d MiB", MaxBytes>>20)}
}

// key is the key of the mapping that has the entries.
const key = "containers"

// nearMisses are keys that users may write instead.
var nearMisses = map[string]bool{
	"container": true, "conatiners": true, "contaners": true, "contianers": true,
	"image": true, "images": true, "repositories": true,
}

// containers returns the nodes of the entries, and the problems of the rest of the document.
func containers(root *yaml.Node) ([]*yaml.Node, []problem) {
	if root.Kind != yaml.MappingNode {
		return nil, []problem{{Line: root.Line, Message: fmt.Sprintf("expected a mapping with the key %q, found %s; %s", key, describe(root), example)}}
	}
	var value *yaml.Node
	var near string
	var problems []problem
	seen := map[string]int{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		name := resolve(root.Content[i])
		line := root.Content[i].Line
		if name.Kind != yaml.ScalarNode {
			continue
		}
		if first, again := seen[name.Value]; again {
			problems = append(problems, problem{Line: line, Message: fmt.Sprintf("duplicate key %q, first in line %d", name.Value, first)})
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
		return nil, append(problems, notOurs(root, near))
	}
	nodes, bad := sequence(value)
	if bad != nil {
		problems = append(problems, *bad)
	}
	return nodes, problems
}

func sequence(value *yaml.Node) ([]*yaml.Node, *problem) {
	node := resolve(value)
	switch {
	case node.Kind != yaml.SequenceNode && node.ShortTag() != "!!null":
		return nil, &problem{Line: value.Line, Message: fmt.Sprintf("expected a list under %q, found %s", key, describe(node))}
	case len(node.Content) == 0:
		return nil, &problem{Line: value.Line, Message: fmt.Sprintf("the list under %q is empty", key)}
	}
	return node.Content, nil
}

// notString describes a node that is not a string; for a string, it returns "". A boolean of YAML 1.1
// counts as a boolean, because other programs read it so.
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

// describe describes a node for messages.
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

// maxNodes is how many YAML nodes a list may have with its aliases expanded: three times as many as a
// list of MaxBytes has without aliases.
const maxNodes = 1_000_000

// expansion computes how many nodes a document has with its aliases expanded. It visits each anchored
// node once.
type expansion struct {
	// anchors has the size of each anchored node. It is 0 while the node is being counted.
	anchors map[*yaml.Node]int
	problem *problem
}

func checkExpansion(root *yaml.Node) *problem {
	e := expansion{anchors: map[*yaml.Node]int{}}
	e.size(root)
	return e.problem
}

func (e *expansion) size(node *yaml.Node) int {
	if node.Kind == yaml.AliasNode {
		// An alias can name only a node before it, whose size is known, or one that contains it.
		size := e.anchors[node.Alias]
		if size == 0 {
			e.fail(node, fmt.Sprintf("alias *%s refers to a node that contains it", node.Value))
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
		e.problem = &problem{Line: node.Line, Message: message}
	}
}

// resolve follows aliases. checkExpansion has excluded cycles.
func resolve(node *yaml.Node) *yaml.Node {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node
}
