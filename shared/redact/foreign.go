package redact

import (
	"regexp"
	"strings"
)

// opaque matches the characters of a token that is not a JWT.
var opaque = regexp.MustCompile(`[A-Za-z0-9_~+=-]{20,}`)

// inPath is the length in bytes from which on a part of a path is one, too.
const inPath = 40

// Foreign is Line for the output of another process. Such a process has tokens of its own,
// which are not known here, so Foreign also takes out anything that looks like a token.
func Foreign(text string) string {
	line := Line(text)
	var masked strings.Builder
	done := 0
	for _, at := range opaque.FindAllStringIndex(line, -1) {
		word := line[at[0]:at[1]]
		if !looksOpaque(word) || len(word) < inPath && at[0] > 0 && line[at[0]-1] == '/' {
			continue
		}
		masked.WriteString(line[done:at[0]])
		masked.WriteString(mask)
		done = at[1]
	}
	masked.WriteString(line[done:])
	return masked.String()
}

// looksOpaque reports whether a text is a token rather than a digest, a host or a word, which
// have no capitals, or no digits.
func looksOpaque(word string) bool {
	return strings.ContainsAny(word, "0123456789") && strings.ToLower(word) != word
}
