package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
)

// call is a request about a repository.
type call struct {
	op         string // one of the Op constants
	repository reference.Repository
	reference  reference.TagOrDigest // nil for a call about the whole repository

	method      string
	scope       string // transport.PullScope, transport.PushScope or catalogScope
	path        string // tagsList, catalog, uploads, or the part of the path before the reference
	query       string // encoded
	accept      string
	contentType string
	body        []byte
	limit       int64  // maximal size of the answer's body, in bytes
	instead     string // name of the expected answer, for pageError; it is JSON, unless aReceipt or aBlob

	// For blobs, which may be large:
	url    *url.URL             // instead of path and query
	stream io.Reader            // instead of body; sent once
	size   int64                // of stream; negative: unknown
	offset int64                // of stream in the blob
	ranged bool                 // the stream is one of several pieces
	asks   bool                 // the stream is sent when the registry wants it
	moved  bool                 // the stream was redirected
	opens  bool                 // the answer's body is read later
	from   int64                // offset in the blob at which the answer starts
	before int64                // offset before which it ends; 0: at the blob's end
	apart  bool                 // over a connection that carries nothing else meanwhile
	mount  reference.Repository // optional; the registry may take the blob from there
	large  bool                 // the limit is within instead of requestTimeout
	within time.Duration        // 0: no limit
	// declined reports whether an error is expected, because the caller then takes another way.
	// The guard does not see such an error. It is optional.
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

// target returns the path of a call. Its parts are valid names of the OCI distribution
// specification, so they contain neither dot segments nor characters that end a path.
func (call *call) target(at location) (string, error) {
	if call.isNamed() && (call.reference == nil || call.reference.IsZero()) {
		return "", fmt.Errorf("%w: neither a tag nor a digest", ErrName)
	}
	if call.path == catalog {
		return "/v2/" + call.below(), nil
	}
	return "/v2/" + at.path() + "/" + call.below(), nil
}

// own returns a part of all paths of the repository to which the call may write.
func (call *call) own(at location) string {
	kind, _, _ := strings.Cut(call.path, "/")
	return "/" + at.path() + "/" + kind + "/"
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

// send sends a call when the guard permits it. Any status but 2xx is an error. The error wraps an
// *Error.
func (c *Client) send(ctx context.Context, call *call) (answer, error) {
	growStack(0)
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

// stackOfCall is how much stack a request needs, in bytes.
const stackOfCall = 10 << 10

// growStack makes room on the stack of the goroutine for a request. Most requests are sent by goroutines
// that have just begun. Without it, the stack would grow in several steps while the request is sent, and
// each step adjusts all frames. i may have any value below stackOfCall; it keeps the compiler from
// removing the array.
//
//go:noinline
func growStack(i int) byte {
	var room [stackOfCall]byte
	return room[i]
}

// guarded returns the call as the guard sees it.
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

// errNotMounted is returned if a registry has answered that it has mounted a blob, but does not have it.
var errNotMounted = errors.New("the blob was not mounted")

// IsDeclined reports whether the error of Begin means that the registry does not mount the blob from
// another repository. The blob can be uploaded instead. Some registries answer 500 or 501 to a request
// to mount; if the registry is in trouble, the upload fails, too.
func IsDeclined(err error) bool {
	status := statusOf(err)
	return errors.Is(err, errNotMounted) ||
		status/100 == 4 && !errors.Is(err, ErrLimited) || status == http.StatusInternalServerError || status == http.StatusNotImplemented
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

// outweighsHead reports whether the failure of a GET is returned instead of that of the HEAD before
// it.
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

// attempt sends a call in a session. If a kept session is refused, it opens a new one and sends the
// call once more: registries answer 401, 403 or 400 when tokens or credentials have expired.
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
		case errors.Is(err, errStorage) && first && call.stream == nil:
			continue // the next redirect has a new permission
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

// ErrEnded is returned if a registry has refused a part of a blob in a kept session. The part was
// read and cannot be sent again. The next request opens a new session.
var ErrEnded = errors.New("the session has ended")

// refusedWith returns the status of a refusal whose reason may be the session, and otherwise 0.
func refusedWith(err error) int {
	switch status := statusOf(err); status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		return status
	}
	return 0
}

// errStorage is returned if a host to which the registry has redirected a request, such as the
// storage of its blobs, refuses the request. The session is not the reason.
var errStorage = fmt.Errorf("%w", ErrUnavailable)
