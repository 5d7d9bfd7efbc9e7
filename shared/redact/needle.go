package redact

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"strconv"
	"strings"
)

// needle is one spelling of a secret.
type needle struct {
	text string
	// word is true if it must be a whole word.
	word bool
	// left and right are true if the characters of a token before and after it are secret, too.
	left, right bool
}

// in reports whether the needle is at i, or its beginning if the text was cut after that.
func (n needle) in(text string, i int) (found span, ok bool) {
	start, end := i, i
	for end < len(text) && end-i < len(n.text) && text[end] == n.text[end-i] {
		end++
	}
	whole := end-i == len(n.text)
	switch {
	case !whole && !isCut(text[end:]):
		return span{}, false
	case n.word && (!whole || i > 0 && isWord(text[i-1]) || end < len(text) && isWord(text[end])):
		return span{}, false
	}
	for n.left && start > 0 && isToken(text[start-1]) {
		start--
	}
	for n.right && end < len(text) && (isToken(text[end]) || text[end] == '/') {
		end++
	}
	return span{start, end}, true
}

// isCut reports whether a text was cut before rest: rest begins with dots.
func isCut(rest string) bool {
	return strings.HasPrefix(rest, "...") || strings.HasPrefix(rest, ellipsis)
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}

// isToken reports whether c can be in a token: in base64 (except for the slash), in base64 for URLs,
// escaped in a URL, or in a JSON Web Token.
func isToken(c byte) bool { return isWord(c) && c < 0x80 || strings.IndexByte("+-=%.~", c) >= 0 }

// needlesOf returns the spellings in which servers and programs may repeat a secret: unchanged, and as in
// URLs, JSON, HTML, quoted Go strings, and base64.
func needlesOf(secret string) []needle {
	if len(secret) < wordLength {
		return []needle{{text: secret, word: true}}
	}
	// A secret of this length was cut.
	long := len(secret) == maxNeedle
	seen := make(map[needle]bool)
	var all []needle
	add := func(n needle) {
		if len(n.text) >= minLength && !seen[n] {
			seen[n] = true
			all = append(all, n)
		}
	}
	for _, text := range spellings(secret) {
		add(needle{text: text, right: long})
	}
	for _, text := range insideBase64(secret) {
		add(needle{text: text, left: true, right: true})
		add(needle{text: url.QueryEscape(text), left: true, right: true})
		add(needle{text: lowerEscapes(url.QueryEscape(text)), left: true, right: true})
	}
	return all
}

func spellings(secret string) []string {
	inQuery, inPath := url.QueryEscape(secret), url.PathEscape(secret)
	inHTML := html.EscapeString(secret)
	return []string{
		secret, strings.Join(strings.Fields(secret), " "),
		inQuery, lowerEscapes(inQuery), inPath, lowerEscapes(inPath),
		inJSON(secret, true), inJSON(secret, false),
		inHTML, strings.NewReplacer("&#34;", "&quot;", "&#39;", "&apos;").Replace(inHTML),
		unquoted(strconv.Quote(secret)), unquoted(strconv.QuoteToASCII(secret)),
	}
}

// lowerEscapes returns a text with its escapes in lower case, as in %2f.
func lowerEscapes(escaped string) string {
	b := []byte(escaped)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:], strings.ToLower(string(b[i+1:i+3])))
			i += 2
		}
	}
	return string(b)
}

func inJSON(secret string, forHTML bool) string {
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(forHTML)
	_ = encoder.Encode(secret) // a string can be encoded
	return unquoted(strings.TrimSpace(text.String()))
}

func unquoted(s string) string { return s[1 : len(s)-1] }

// insideBase64 returns the base64 of a secret as it is in the base64 of a longer text, such as
// user:password. There are three of them, because the secret can begin at each byte of a group of three.
// They leave out the first and the last character if these also have bits of the text around the secret.
func insideBase64(secret string) []string {
	var all []string
	for before := range 3 {
		text := make([]byte, before, before+len(secret))
		text = append(text, secret...)
		first := (before*8 + 5) / 6 // the first character without bits of the text before
		after := len(text) * 8 / 6  // the first character with bits of the text after
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			all = append(all, encoding.EncodeToString(text)[first:after])
		}
	}
	return all
}
