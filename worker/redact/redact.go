// Package redact turns what a registry or a tool said into one line that can
// be shown to a person and kept in a record: no secrets, no line breaks, no
// more than MaxLength bytes.
package redact

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxLength is the longest line in bytes: enough for any error that a person
// reads, small enough for thousands of them in one failure record of 512 KiB.
const MaxLength = 1024

// mask stands where a secret was.
const mask = "***"

var (
	// userinfo is the user:password@ of a URL. The password may itself hold an @.
	userinfo = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s"'<>]+@`)

	// query is a URL's query string: signed storage URLs carry their signature
	// there (X-Amz-Signature, sig, X-Goog-Signature), token URLs an account.
	query = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://[^\s"'<>?]+)\?[^\s"'<>]*`)

	// scheme is an Authorization header's value. What follows may be a word of
	// a sentence ("basic authentication required"), so looksRandom decides.
	scheme = regexp.MustCompile(`(?i)\b(bearer|basic)\s+([a-z0-9._~+/=-]{8,})`)

	// assignment is a secret by its name, in a query, a form or JSON.
	assignment = regexp.MustCompile(`(?i)((?:password|passwd|secret|[a-z_]*token|sig|x-(?:amz|goog)-[a-z-]+)` +
		`(?:=|"\s*:\s*"))[^\s"'&,;]+`)
)

// Line returns text as one line without secrets, cut to MaxLength bytes.
func Line(text string) string {
	// The patterns are linear in their input; a registry can send megabytes.
	text = cut(text, 8*MaxLength)
	text = userinfo.ReplaceAllString(text, "$1")
	text = query.ReplaceAllString(text, "$1")
	text = scheme.ReplaceAllStringFunc(text, func(match string) string {
		parts := scheme.FindStringSubmatch(match)
		if !looksRandom(parts[2]) {
			return match
		}
		return parts[1] + " " + mask
	})
	text = assignment.ReplaceAllString(text, "${1}"+mask)
	return cut(oneLine(text), MaxLength)
}

// looksRandom tells a token from a word: words have no digits, no padding and
// no capitals after the first letter.
func looksRandom(s string) bool {
	return strings.ContainsAny(s, "0123456789=_") || strings.ToLower(s[1:]) != s[1:]
}

func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return strings.Join(strings.Fields(s), " ")
}

func cut(s string, limit int) string {
	const ellipsis = "…"
	if len(s) <= limit {
		return s
	}
	end := limit - len(ellipsis)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}
