package list

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

const htmlPage = "this is an HTML page, not YAML; is this the address of the raw file?"

var (
	utf8BOM = []byte("\xef\xbb\xbf")
	// yamlLine is how the library states the line of a syntax error.
	yamlLine = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?`)
	// parserError matches the messages of the library's parser, which counts
	// lines from 0; its scanner counts from 1.
	parserError = regexp.MustCompile(`^did not find expected (?:<document start>|',' or|'-' indicator|key|node content)`)
)

// document turns the bytes of a list into its one YAML document, with aliases
// left as they are: expanding them is how a small file fills the memory.
func document(data []byte) (*yaml.Node, *Problem) {
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
		return nil, &Problem{Message: "the list is empty"}
	} else if err != nil {
		return nil, syntaxProblem(err)
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		return nil, &Problem{Line: second.Line, Message: "a second YAML document starts here, expected one"}
	case !errors.Is(err, io.EOF):
		return nil, syntaxProblem(err)
	}
	root := doc.Content[0]
	if root.ShortTag() == "!!null" {
		return nil, &Problem{Message: "the list is empty"}
	}
	return root, checkExpansion(root)
}

// checkText refuses what is no UTF-8 text, which the YAML library would read
// as something else or refuse without a line.
func checkText(data []byte) *Problem {
	if looksLikeUTF16(data) {
		return &Problem{Message: "the list is in UTF-16, expected UTF-8"}
	}
	if i := bytes.IndexFunc(data, isControl); i >= 0 {
		return &Problem{Line: lineAt(data, i), Message: fmt.Sprintf("control character 0x%02x; this is not a text file", data[i])}
	}
	if i := invalidUTF8(data); i >= 0 {
		return &Problem{Line: lineAt(data, i), Message: fmt.Sprintf("byte 0x%02x is not UTF-8; is the list in another encoding?", data[i])}
	}
	// "<<" is YAML's merge key.
	if start := bytes.TrimSpace(data); bytes.HasPrefix(start, []byte("<")) && !bytes.HasPrefix(start, []byte("<<")) {
		return &Problem{Message: htmlPage}
	}
	return nil
}

// looksLikeUTF16 goes by the byte order mark, or by the zero in one half of
// the first character, that every ASCII character has.
func looksLikeUTF16(data []byte) bool {
	if len(data) < 2 {
		return false
	}
	bom := data[0] == 0xff && data[1] == 0xfe || data[0] == 0xfe && data[1] == 0xff
	return bom || (data[0] == 0) != (data[1] == 0)
}

// isControl is what YAML forbids of ASCII (YAML 1.2, section 5.1).
func isControl(r rune) bool {
	return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == '\x7f'
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

func syntaxProblem(err error) *Problem {
	text := err.Error()
	match := yamlLine.FindStringSubmatch(text)
	if match == nil {
		return &Problem{Message: "broken YAML: " + text}
	}
	line, _ := strconv.Atoi(match[1])
	text = text[len(match[0]):]
	if parserError.MatchString(text) {
		line++
	}
	return &Problem{Line: line, Message: "broken YAML: " + text}
}

func tooLarge() *Problem {
	return &Problem{Message: fmt.Sprintf("the list is larger than %d MiB", MaxBytes>>20)}
}
