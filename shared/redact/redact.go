// Package redact takes secrets out of texts that people read: logs, errors, failure
// records. It takes out the secrets that were used, which it is given (Add), in
// every spelling that a server may echo them in, and anything that looks like one.
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

// mask replaces a secret, as in net/url.
const mask = "xxxxx"

var (
	// userinfo is the user:password@ of a URL. The password may itself hold an @.
	userinfo = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s"'<>]+@`)

	// query is a URL's query string: signed storage URLs carry their signature
	// there (X-Amz-Signature, sig, X-Goog-Signature), token URLs an account.
	query = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://[^\s"'<>?]+)\?[^\s"'<>]*[^\s"'<>:;,.)]`)

	// scheme is an Authorization header's value. What follows may be a word of
	// a sentence ("basic authentication required"), so looksRandom decides.
	scheme = regexp.MustCompile(`(?i)\b(bearer|basic)\s+([a-z0-9._~+/=-]{8,})`)

	// assignment is a secret by its name, in a query, a form or JSON.
	assignment = regexp.MustCompile(`(?i)((?:password|passwd|secret|token|sig|x-(?:amz|goog)-[a-z-]+)` +
		`(?:=|"\s*:\s*"))[^\s"'&,;]+`)

	// jwt is a token of the kind that most registries give out: the base64 of
	// {" begins its header.
	jwt = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*){1,4}`)

	// printed is what a credential helper printed when it failed, as the client of
	// docker-credential-helpers quotes it.
	printed = regexp.MustCompile("(?s)(error getting credentials - err: [^,]*, out: )`.*")
)

// Line returns text as one line without secrets, cut to MaxLength bytes.
func Line(text string) string {
	// The patterns are linear in their input; a registry can send megabytes.
	return cut(oneLine(Text(cut(text, 8*MaxLength))), MaxLength)
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
	if strings.ContainsAny(text, `="`) { // most log lines have neither, and it is the slow one
		text = assignment.ReplaceAllString(text, "${1}"+mask)
	}
	return text
}

// looksRandom reports whether a text is a token and not a word: words have no digits, no padding and
// no capitals after the first letter.
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
