package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/osism/skopeo-worker/shared/reference"
)

// maxRedirects is net/http's default, which CheckRedirect replaces.
const maxRedirects = 10

// ErrRedirected is returned if a registry redirects a part of a blob that was read already. The
// part is to be sent again, and then goes to the target of the redirect.
var ErrRedirected = errors.New("redirected")

// redirectedError is an ErrRedirected with the target.
type redirectedError struct{ to *url.URL }

func (e *redirectedError) Error() string   { return fmt.Sprintf("%v to %s", ErrRedirected, e.to.Host) }
func (e *redirectedError) Unwrap() []error { return []error{ErrRedirected, ErrUnexpected} }

// checkRedirect is the CheckRedirect of a session. A redirect may lead to another host, which
// gets no credentials, and does not learn from where. net/http sends a body again only if all of
// it is in memory.
func checkRedirect(request *http.Request, via []*http.Request) error {
	request.Header.Del("Referer") // an upload's location may contain a permission
	if len(via) >= maxRedirects {
		return tooManyRedirects(request.Response.StatusCode)
	}
	if request.Method == http.MethodGet || request.Method == http.MethodHead {
		return nil
	}
	about, _ := request.Context().Value(partyKey{}).(party)
	if !stays(request.URL, about.own) {
		return &pageError{request.Response.StatusCode, "a redirect to " + reference.Quote(request.URL.Path), aReceipt}
	}
	return nil
}

func tooManyRedirects(status int) error {
	return &pageError{status, fmt.Sprintf("more than %d redirects", maxRedirects), "an answer"}
}

// stays reports whether a request to a URL stays in its repository. Repositories are below /v2/, so
// the path must contain own there; some registries take uploads elsewhere.
func stays(target *url.URL, own string) bool {
	// A front may take dot segments away, and with them the repository.
	for segment := range strings.SplitSeq(target.Path, "/") {
		if segment == "." || segment == ".." {
			return false
		}
	}
	return !strings.HasPrefix(target.Path, "/v2/") || strings.Contains(target.Path, own)
}

// redirected returns the target of an answer that asks for a part of a blob at another URL; nil
// if the answer is another one.
func (call *call) redirected(at location, response *http.Response) (*url.URL, error) {
	text := response.Header.Get("Location")
	if call.stream == nil || text == "" || response.StatusCode != http.StatusTemporaryRedirect && response.StatusCode != http.StatusPermanentRedirect {
		return nil, nil
	}
	return parseLocation(response.Request.URL, text, call.own(at))
}

// once is a stream that is sent by one request. A request that has been answered may still be
// reading it.
type once struct {
	stream io.Reader

	mu      sync.Mutex
	read    bool // some of it may have been read
	revoked bool
}

// Close implements io.Closer.
func (*once) Close() error { return nil }

// Read implements io.Reader.
func (o *once) Read(p []byte) (int, error) {
	o.mu.Lock()
	if o.revoked {
		o.mu.Unlock()
		return 0, errRevoked
	}
	o.read = true
	o.mu.Unlock()
	return o.stream.Read(p)
}

// errRevoked is returned to a request that was redirected before it has read the stream.
var errRevoked = errors.New("the stream goes to another request")

// revoke ends the reading. It reports whether nothing was read, so that another request can
// send the stream.
func (o *once) revoke() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.revoked = true
	return !o.read
}
