package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
)

// call is a request about a repository.
type call struct {
	op         string // one of the Op constants
	repository reference.Repository
	reference  reference.TagOrDigest // nil: the repository as a whole

	method      string
	scope       string // transport.PullScope, transport.PushScope or catalogScope
	path        string // tagsList, catalog, uploads, or a prefix of the reference
	query       string // encoded
	accept      string
	contentType string
	body        []byte
	limit       int64  // of the answer's body, in bytes
	instead     string // name of the expected answer, for pageError; JSON, unless aReceipt or aBlob

	// For blobs, which may be large:
	url    *url.URL             // instead of path and query
	stream io.Reader            // instead of body; sent once
	size   int64                // of stream; negative: unknown
	offset int64                // of stream in the blob
	ranged bool                 // the stream is one of several pieces
	opens  bool                 // the answer's body is read later
	from   int64                // offset in the blob at which the answer starts
	before int64                // offset before which it ends; 0: at the blob's end
	lane   int                  // requests of different lanes use different connections
	mount  reference.Repository // optional; the registry may take the blob from there
	large  bool                 // the limit is within instead of requestTimeout
	within time.Duration        // 0: no limit
	// declined reports whether an error is no failure, because there is another way. The
	// guard does not see it. Optional.
	declined func(error) bool
}

// The paths of calls, below /v2/<repository>/.
const (
	tagsList  = "tags/list"
	catalog   = "_catalog" // below /v2/
	manifests = "manifests/"
	referrers = "referrers/"
	blobs     = "blobs/"
	uploads   = "blobs/uploads/"
)

// target returns the path of a call. Its parts follow the OCI distribution specification, so
// they contain neither dot segments nor characters that end a path.
func (call *call) target(at location) (string, error) {
	if call.isNamed() && (call.reference == nil || call.reference.IsZero()) {
		return "", fmt.Errorf("%w: neither a tag nor a digest", ErrName)
	}
	if call.path == catalog {
		return "/v2/" + call.below(), nil
	}
	return "/v2/" + at.path() + "/" + call.below(), nil
}

// isNamed reports whether the path contains the reference.
func (call *call) isNamed() bool {
	return call.path != tagsList && call.path != uploads && call.path != catalog
}

// below returns the path below /v2/<repository>/.
func (call *call) below() string {
	if call.isNamed() {
		return call.path + call.reference.String()
	}
	return call.path
}

// answer is a registry's answer to a call, read to its end unless opened is set.
type answer struct {
	status int
	header http.Header
	body   []byte
	size   int64 // Content-Length; negative if absent
	url    *url.URL
	opened *opened // instead of body, if the call opens
}

// failure is the reason why a call failed. Error adds which call it was.
type failure struct {
	status     int
	retryAfter time.Duration
	cause      error
}

func (f *failure) Error() string { return f.cause.Error() }
func (f *failure) Unwrap() error { return f.cause }

// statusOf returns the HTTP status of a failure or an *Error, 0 if there was no answer.
func statusOf(err error) int {
	if failed, ok := errors.AsType[*failure](err); ok {
		return failed.status
	}
	if failed, ok := errors.AsType[*Error](err); ok {
		return failed.Status
	}
	return 0
}

// send sends a call when the guard permits it. Its error wraps an *Error; any status but 2xx
// is an error.
func (c *Client) send(ctx context.Context, call *call) (answer, error) {
	switch {
	case c.guard == nil:
		return c.sendNow(ctx, call)
	case call.opens:
		return c.sendOpen(ctx, call)
	}
	var got answer
	var declined error
	err := c.guard(ctx, call.guarded(), func() (err error) {
		got, err = c.sendNow(ctx, call)
		if call.declined != nil && call.declined(err) {
			declined, err = err, nil
		}
		return err
	})
	if err == nil {
		err = declined
	}
	return got, call.wrap(err)
}

// guarded returns what the guard gets to see.
func (call *call) guarded() Request {
	return Request{
		Op: call.op, Repository: call.repository, Reference: call.reference,
		Blob: call.instead == aBlob || call.path == uploads, Opens: call.path == uploads && call.method == http.MethodPost,
	}
}

// wrap returns an error that wraps an *Error.
func (call *call) wrap(err error) error {
	if err == nil || errors.As(err, new(*Error)) {
		return err
	}
	return call.fail(err)
}

// IsDeclined reports whether the error of Begin means that the registry does not mount the
// blob from another repository. The blob can be uploaded instead.
func IsDeclined(err error) bool {
	return statusOf(err)/100 == 4 && !errors.Is(err, ErrLimited)
}

func (c *Client) sendNow(ctx context.Context, call *call) (answer, error) {
	got, err := c.attempt(ctx, call)
	if c.deniesHead(call, err) {
		get := *call
		get.method, get.limit = http.MethodGet, maxManifestSize
		if byGet, failed := c.attempt(ctx, &get); failed == nil {
			got, err = byGet, nil
		} else if outweighsHead(failed) {
			err = failed
		}
	}
	if err != nil {
		return answer{}, call.fail(err)
	}
	return got, nil
}

// outweighsHead reports whether the failure of a GET is returned instead of the failure of the
// HEAD before it.
func outweighsHead(err error) bool {
	return statusOf(err) == http.StatusNotFound || errors.Is(err, ErrLimited) || errors.As(err, new(*budget.SpentError))
}

// fail returns the *Error of a failure.
func (call *call) fail(err error) *Error {
	named := &Error{Op: call.op, Repository: call.repository, Reference: call.reference, Err: err}
	if failed, ok := errors.AsType[*failure](err); ok {
		named.Status, named.RetryAfter, named.Err = failed.status, failed.retryAfter, failed.cause
	}
	if page, ok := errors.AsType[*pageError](err); ok {
		named.Status = page.status
	}
	if errors.Is(err, ErrEnded) {
		named.Err = fmt.Errorf("%w: %w", ErrEnded, named.Err)
	}
	return named
}

// attempt sends a call in a session. If it is refused in a session that was kept, it opens a
// new session and tries once more: tokens and credentials expire, and registries answer that
// with 401, 403 or 400.
func (c *Client) attempt(ctx context.Context, call *call) (answer, error) {
	at, err := c.locate(call.repository)
	if err != nil {
		return answer{}, err
	}
	for first := true; ; first = false {
		h, session, kept, err := c.session(ctx, at, call, !first)
		if err != nil {
			return answer{}, err
		}
		got, err := exchange(ctx, session, at, call)
		status := refusedWith(err)
		switch {
		case status == 0:
			return got, err
		case errors.Is(err, errStorage) && first:
			continue // another redirect has a permission that has not ended
		case errors.Is(err, errStorage):
			return got, err
		case !first && session.doubt == nil:
			session.settle(status, c.sessions.now())
		case !first, call.method == http.MethodDelete && call.op != OpDelete: // cancelling an upload needs a permission that clients rarely have
		case (kept || session.doubt != nil) && !(call.op == OpHead && session.isSettled(status, c.sessions.now())):
			c.sessions.drop(h, session)
			if call.stream != nil {
				return answer{}, fmt.Errorf("%w: %w", ErrEnded, err) // the stream has been read
			}
			continue
		}
		if session.doubt != nil && status == http.StatusUnauthorized {
			// The registry did not request credentials, and refuses requests without.
			return answer{}, session.doubt
		}
		return answer{}, c.explainRefusal(ctx, session, at, call, err)
	}
}

// ErrEnded is returned if a part of a blob was refused in a session that was kept. The part
// has been read and cannot be sent again; a later request opens a new session.
var ErrEnded = errors.New("the session has ended")

// refusedWith returns the status of a refusal for which the session may be the reason, and
// otherwise 0.
func refusedWith(err error) int {
	switch status := statusOf(err); status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		return status
	}
	return 0
}

// errStorage is a refusal of a host to which the registry has redirected a read, such as the
// storage of its blobs. The session is not the reason.
var errStorage = fmt.Errorf("%w", ErrUnavailable)

// looks reports whether the call only reads.
func (call *call) looks() bool {
	return call.method == http.MethodGet || call.method == http.MethodHead
}

// exchange sends a request and reads the answer.
func exchange(ctx context.Context, session *session, at location, call *call) (answer, error) {
	ctx, end := call.bounded(ctx)
	defer func() {
		if end != nil {
			end()
		}
	}()
	ctx, wait := withWait(at.with(ctx, call.lane))
	request, err := call.request(ctx, at)
	if err != nil {
		return answer{}, err
	}
	response, err := session.Do(request)
	if err != nil {
		return answer{}, unanswered(ctx, at, wait, err)
	}
	got := answer{status: response.StatusCode, header: response.Header, size: response.ContentLength, url: response.Request.URL}
	if call.opens && response.StatusCode/100 == 2 {
		got.opened = &opened{body: response.Body, status: got.status, call: call, at: at, ctx: ctx, end: end}
		end = nil
		return got, nil
	}
	defer response.Body.Close()
	if response.StatusCode/100 == 3 {
		return answer{}, &pageError{response.StatusCode, "a redirect without a target", call.instead}
	}
	if response.StatusCode/100 == 2 && response.Request.Method != call.method {
		// A redirect that turns a PUT into a GET does not store anything.
		return answer{}, &pageError{got.status, "a redirect to " + response.Request.URL.Host, call.instead}
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, call.limit+1))
	if err != nil {
		return answer{}, unanswered(ctx, at, wait, err)
	}
	if response.StatusCode/100 != 2 {
		failed := &failure{
			status:     response.StatusCode,
			retryAfter: time.Duration(wait.Load()),
			cause:      refusal(response.StatusCode, diagnose(body), session.login),
		}
		if host := response.Request.URL.Host; call.looks() && host != request.URL.Host && refusedWith(failed) != 0 {
			failed.cause = fmt.Errorf("%w: %s refused what the registry has redirected to it: %s", errStorage, host, diagnose(body).Message)
		}
		return answer{}, failed
	}
	if int64(len(body)) > call.limit && (call.instead == aBlob || !isMarkup(body)) {
		return answer{}, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, call.limit)
	}
	got.body = body
	if came := call.page(got); came != "" {
		return answer{}, &pageError{got.status, came, call.instead}
	}
	return got, nil
}

// bounded returns a context with the time limit of a request, and a function that ends it.
func (call *call) bounded(ctx context.Context) (context.Context, func()) {
	within := requestTimeout
	if call.large {
		within = call.within
	}
	if within <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, within, slow(within))
}

// page describes an answer that is not of the expected kind. It returns "" if it is.
func (call *call) page(got answer) string {
	switch {
	case call.method == http.MethodHead:
		return "" // no body
	case call.instead == aReceipt && isMarkup(got.body):
		return markup(got.body)
	case call.instead == aReceipt, call.instead == aBlob:
		return ""
	case call.instead == aTagArray:
		return notJSONOf('[', got.body)
	}
	return notJSON(got.body)
}

func (call *call) request(ctx context.Context, at location) (*http.Request, error) {
	target := call.url
	if target == nil {
		path, err := call.target(at)
		if err != nil {
			return nil, err
		}
		target = &url.URL{
			Scheme:   "https", // the session replaces it if the registry speaks plain HTTP
			Host:     at.registry.RegistryStr(),
			Path:     path,
			RawQuery: call.query,
		}
	}
	body := call.stream
	if body == nil && len(call.body) > 0 {
		body = bytes.NewReader(call.body)
	}
	request, err := http.NewRequestWithContext(ctx, call.method, target.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrName, err)
	}
	if call.stream != nil {
		call.describe(request)
	}
	if call.opens {
		// A registry's storage may declare a layer as compressed, and net/http would then
		// decompress it.
		request.Header.Set("Accept-Encoding", "identity")
	}
	switch {
	case call.before > 0:
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", call.from, call.before-1))
	case call.from > 0:
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", call.from))
	}
	if call.accept != "" {
		request.Header.Set("Accept", call.accept)
	}
	if call.contentType != "" {
		request.Header.Set("Content-Type", call.contentType)
	}
	return request, nil
}

// describe sets the headers of a part of a blob.
func (call *call) describe(request *http.Request) {
	request.ContentLength = call.size
	if (call.offset > 0 || call.ranged) && call.size > 0 {
		request.Header.Set("Content-Range", fmt.Sprintf("%d-%d", call.offset, call.offset+call.size-1))
	}
}

// unanswered returns the failure of a request without an answer.
func unanswered(ctx context.Context, at location, wait *atomic.Int64, err error) error {
	return &failure{retryAfter: time.Duration(wait.Load()), cause: trouble(ctx, at.registry.RegistryStr(), err)}
}
