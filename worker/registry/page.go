package registry

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"

	"github.com/osism/skopeo-worker/shared/reference"
)

// pageError is a successful answer with a wrong body: captive portals, proxies and registries that
// have just started answer 200 with an HTML page or nothing. It wraps ErrPage.
type pageError struct {
	status  int
	came    string // describes the body
	instead string // name of the expected answer
}

func (e *pageError) Error() string {
	return fmt.Sprintf("answered %d with %s instead of %s", e.status, e.came, e.instead)
}

func (e *pageError) Unwrap() error { return ErrPage }

// Names of the expected answer in a pageError.
const (
	aManifest  = "a manifest"
	aTagList   = "a list of tags"
	aCatalog   = "a list of repositories"
	aTagPage   = "a page of tags"
	aTagArray  = "an array of tags"
	aReferrers = "a list of referrers"
	aBlob      = "the blob"
	aReceipt   = "a receipt" // the answer to a PUT or POST
)

// anotherKind describes JSON of another API.
const anotherKind = "JSON of another kind"

// maxTitle is how many characters of a page's title an error quotes.
const maxTitle = 80

// otherBlob returns why a body is not the blob with the wanted digest.
func otherBlob(status int, body []byte, wanted reference.Digest) error {
	switch {
	case len(body) == 0:
		return &pageError{status, "nothing", aBlob}
	case isMarkup(body):
		return &pageError{status, markup(body), aBlob}
	}
	return fmt.Errorf("%w: the content has another digest than %s", ErrDigestMismatch, wanted)
}

// noReceipt returns the error for a successful answer that does not confirm a PUT or POST.
func noReceipt(got answer) error {
	return &pageError{got.status, cmp.Or(notJSON(got.body), anotherKind), aReceipt}
}

// notJSON describes a body that is not a JSON object. It returns "" for a JSON object.
func notJSON(body []byte) string { return notJSONOf('{', body) }

// notJSONOf describes a body that is not JSON with this first character, and otherwise returns "".
func notJSONOf(start byte, body []byte) string {
	trimmed := bytes.TrimSpace(body)
	switch {
	case len(trimmed) == 0:
		return "nothing"
	case isMarkup(body):
		return markup(body)
	case !json.Valid(trimmed):
		return fmt.Sprintf("%d bytes that are not JSON", len(body))
	case trimmed[0] != start:
		return anotherKind
	}
	return ""
}

// isMarkup reports whether a body is HTML or XML, which no registry sends.
func isMarkup(body []byte) bool {
	text := bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")))
	return len(text) > 0 && text[0] == '<'
}

// markup describes a page by its title, which mostly names the portal or proxy that has sent it.
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

// shorten cuts a text to a number of characters.
func shorten(text string, limit int) string {
	runes := []rune(text)
	if len(runes) <= limit {
		return text
	}
	return string(runes[:limit-1]) + "…"
}
