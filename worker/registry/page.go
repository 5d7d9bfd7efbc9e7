package registry

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"

	"github.com/osism/skopeo-worker/shared/reference"
)

// pageError is a success that no registry answers: a captive portal, a proxy or a
// registry that has just started says 200 with a page for people or with nothing. It
// wraps ErrPage.
type pageError struct {
	status  int
	came    string // what came, as part of a sentence
	instead string // what was asked for
}

func (e *pageError) Error() string {
	return fmt.Sprintf("answered %d with %s instead of %s", e.status, e.came, e.instead)
}

func (e *pageError) Unwrap() error { return ErrPage }

// What is asked for, in the words of a pageError.
const (
	aManifest  = "a manifest"
	aTagList   = "a list of tags"
	aTagPage   = "a page of tags"
	aReferrers = "a list of referrers"
	aBlob      = "the blob"
	aReceipt   = "a receipt" // of what was put
)

// anotherKind is JSON of an API that is not the registry's.
const anotherKind = "JSON of another kind"

// maxTitle bounds what is quoted of a page.
const maxTitle = 80

// otherBlob is why a body is not the blob with the digest.
func otherBlob(status int, body []byte, wanted reference.Digest) error {
	switch {
	case len(body) == 0:
		return &pageError{status, "nothing", aBlob}
	case isMarkup(body):
		return &pageError{status, markup(body), aBlob}
	}
	return fmt.Errorf("%w: what came for %s has another digest", ErrDigestMismatch, wanted)
}

// noReceipt is why a success does not mean that anything was stored.
func noReceipt(got answer) error {
	return &pageError{got.status, cmp.Or(notJSON(got.body), anotherKind), aReceipt}
}

// notJSON describes a body that is no JSON object, in the words of a pageError. It is
// empty for one that is.
func notJSON(body []byte) string {
	trimmed := bytes.TrimSpace(body)
	switch {
	case len(trimmed) == 0:
		return "nothing"
	case isMarkup(body):
		return markup(body)
	case !json.Valid(trimmed):
		return fmt.Sprintf("%d bytes that are not JSON", len(body))
	case trimmed[0] != '{':
		return anotherKind
	}
	return ""
}

// isMarkup reports whether a body is HTML or XML. Nothing that a registry serves as an
// answer of its own begins like that.
func isMarkup(body []byte) bool {
	text := bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")))
	return len(text) > 0 && text[0] == '<'
}

// markup describes a page by its title, which names the portal or proxy that sent it.
func markup(body []byte) string {
	found := title.FindSubmatch(body)
	if found == nil {
		return "an HTML page"
	}
	heading := plainText(string(found[1]))
	if heading == "" {
		return "an HTML page"
	}
	return fmt.Sprintf("the HTML page %q", shorten(heading, maxTitle))
}

// shorten cuts a text to so many characters.
func shorten(text string, limit int) string {
	runes := []rune(text)
	if len(runes) <= limit {
		return text
	}
	return string(runes[:limit-1]) + "…"
}
