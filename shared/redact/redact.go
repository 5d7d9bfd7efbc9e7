// Package redact replaces secrets in texts that people read: logs, errors, failure records. It replaces
// the secrets that were added, in each spelling in which a server may repeat them, and anything else
// that looks like a secret.
package redact

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxLength is the longest line in bytes. It is enough for the errors that people read, and a page of a
// failure record (512 KiB) has room for several hundred such lines.
const maxLength = 1024

// mask replaces a secret, as in net/url.
const mask = "xxxxx"

var (
	// userinfo is the user:password@ of a URL. The password may itself hold an @.
	userinfo = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s"'<>]+@`)

	// query is the query of a URL. It holds the signature of signed storage URLs
	// (X-Amz-Signature, sig, X-Goog-Signature), and the account of token URLs.
	query = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://[^\s"'<>?]+)\?[^\s"'<>]*[^\s"'<>:;,.)]`)

	// scheme is the value of an Authorization header. The second part may also be a word of a
	// sentence ("basic authentication required"), so looksRandom decides.
	scheme = regexp.MustCompile(`(?i)\b(bearer|basic)\s+([a-z0-9._~+/=-]{8,})`)

	// assignment is a value whose name shows that it is a secret, in a query, a form or JSON.
	assignment = regexp.MustCompile(`(?i)((?:password|passwd|secret|token|sig|x-(?:amz|goog)-[a-z-]+)` +
		`(?:=|"\s*:\s*"))[^\s"'&,;]+`)

	// jwt is a JSON Web Token, which most registries use. It begins with the base64 of {".
	jwt = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*){1,4}`)

	// printed is the output of a credential helper that failed, as the client of
	// docker-credential-helpers quotes it.
	printed = regexp.MustCompile("(?s)(error getting credentials - err: [^,]*, out: )`.*")
)

// Line returns text as one line without secrets, cut to maxLength bytes.
func Line(text string) string {
	// The patterns are linear in their input; a registry can send megabytes.
	return cut(oneLine(Text(cut(text, 8*maxLength))), maxLength)
}

// Text returns text without secrets. Its lines stay as they are.
func Text(text string) string {
	text = known.mask(strings.ToValidUTF8(text, ""))
	text = printed.ReplaceAllString(text, "$1"+mask)
	text = jwt.ReplaceAllString(text, mask)
	text = scheme.ReplaceAllStringFunc(text, func(match string) string {
		parts := scheme.FindStringSubmatch(match)
		if !looksRandom(parts[2]) {
			return match
		}
		return parts[1] + " " + mask
	})
	if strings.Contains(text, "://") {
		text = userinfo.ReplaceAllString(text, "$1")
		text = query.ReplaceAllString(text, "$1?"+mask)
	}
	if strings.ContainsAny(text, `="`) { // most log lines have neither, and this pattern is slow
		text = assignment.ReplaceAllString(text, "${1}"+mask)
	}
	return text
}

// looksRandom reports whether a text is a token rather than a word. Words have no digits, no padding,
// and no capitals after the first letter.
func looksRandom(s string) bool {
	return strings.ContainsAny(s, "0123456789=_") || strings.ToLower(s[1:]) != s[1:]
}

func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// ellipsis marks the place at which a text was cut.
const ellipsis = "…"

func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	end := limit - len(ellipsis)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}

// opaque matches the characters of a token that is not a JWT.
var opaque = regexp.MustCompile(`[A-Za-z0-9_~+=-]{20,}`)

// inPath is the length in bytes from which a part of a path counts as a token.
const inPath = 40

// Foreign is Line for the output of another process. That process may have tokens that were not added,
// so Foreign also replaces anything that looks like a token.
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

// looksOpaque reports whether a text is a token: it has digits and capitals. Digests, hosts and words
// have only one of them.
func looksOpaque(word string) bool {
	return strings.ContainsAny(word, "0123456789") && strings.ToLower(word) != word
}
