package registry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/redact"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/containers"
)

// What went wrong. An Error wraps one of these.
var (
	ErrNotFound       = errors.New("not found")         // 404, or an error code of the same meaning
	ErrUnauthorized   = errors.New("unauthorized")      // 401
	ErrDenied         = errors.New("denied")            // 403
	ErrLimited        = errors.New("too many requests") // 429
	ErrUnavailable    = errors.New("unavailable")       // 5xx, or no answer
	ErrRejected       = errors.New("rejected")          // any other status
	ErrPlainHTTP      = errors.New("speaks plain HTTP") // not in INSECURE_REGISTRIES
	ErrBlocked        = errors.New("blocked in registries.conf")
	ErrCertificate    = errors.New("certificate not trusted") // TLS verification failed
	ErrDigestMismatch = errors.New("digest mismatch")         // content and digest disagree
	ErrBadManifest    = errors.New("bad manifest")            // cannot be parsed
	ErrTooLarge       = errors.New("too large")               // a manifest, page or small blob
	ErrTooMany        = errors.New("too many")                // tags, pages or entries
	ErrPagination     = errors.New("incomplete list")         // its last page cannot be reached
	ErrUnexpected     = errors.New("unexpected answer")       // not as the OCI specification requires
	ErrPage           = errors.New("not a registry's answer") // a success with an HTML page or nothing, mostly of a proxy
	ErrCredentials    = errors.New("credentials")             // could not be read
	ErrName           = errors.New("not a repository")        // the name is invalid
	ErrBlobUnknown    = fmt.Errorf("%w", ErrRejected)         // a manifest refers to a missing blob or manifest
	ErrUploadUnknown  = errors.New("the registry does not find the upload that it has begun")
	ErrHeadDenied     = errors.New("HEAD answered not found") // and the GET that should confirm it has failed
	errHidden         = errors.New("not visible")             // 401 or 403 of a destination; see Writing
	// Refused deletions.
	ErrReferenced = fmt.Errorf("%w: an index there needs it", ErrRejected)
	ErrTagged     = fmt.Errorf("%w", ErrRejected) // the manifest has tags, which must be deleted first

	ErrNoReferrersAPI = errors.New("no referrers API") // only Referrers returns it
)

// The operations of an Error.
const (
	OpTags      = "list tags of"
	OpCatalog   = "list repositories of" // the registry
	OpHead      = "look up"
	OpGet       = "get"
	OpGetBlob   = "get blob"
	OpPut       = "put"
	OpDelete    = "delete"
	OpReferrers = "list referrers of"
	OpReach     = "reach" // the registry
	OpVerify    = "verify signatures of"
)

// Error is a failed request.
type Error struct {
	Op         string // one of the Op constants
	Repository reference.Repository
	Reference  reference.TagOrDigest // nil for a request about the whole repository
	Status     int                   // HTTP status; 0 if there was no answer
	RetryAfter time.Duration         // how long the registry asks to wait; 0 if unknown
	Err        error                 // wraps one of the errors above
}

// Error returns one line without secrets.
func (e *Error) Error() string {
	of := join(e.Repository, e.Reference)
	if e.Op == OpReach || e.Op == OpCatalog {
		of = e.Repository.Registry()
	}
	text := fmt.Sprintf("%s %s: %v", e.Op, of, e.Err)
	if e.Status >= http.StatusMultipleChoices {
		text += fmt.Sprintf(" (%d)", e.Status)
	}
	return redact.Line(text)
}

func (e *Error) Unwrap() error { return e.Err }

// about wraps an error in an *Error, unless it already wraps one.
func about(err error, op string, repository reference.Repository, name reference.TagOrDigest) error {
	if err == nil || errors.As(err, new(*Error)) {
		return err
	}
	return &Error{Op: op, Repository: repository, Reference: name, Err: err}
}

// join returns a reference in the usual spelling.
func join(repository reference.Repository, name reference.TagOrDigest) string {
	whole := reference.Reference{Repository: repository}
	switch name := name.(type) {
	case reference.Tag:
		whole.Tag = name
	case reference.Digest:
		whole.Digest = name
	}
	return whole.String()
}

func plainHTTP(host string) error {
	return fmt.Errorf("%s %w; add it to INSECURE_REGISTRIES to allow that", host, ErrPlainHTTP)
}

// errSlow is the cause of the context when a request has taken too long.
var errSlow = errors.New("no complete answer within")

// slow is an errSlow after this time. Each request has one as the cause of its context, so its text
// is made only when it is read.
type slow time.Duration

func (s slow) Error() string {
	return fmt.Sprintf("%v %s: %v", errSlow, time.Duration(s), context.DeadlineExceeded)
}
func (s slow) Unwrap() []error { return []error{errSlow, context.DeadlineExceeded} }

// diagnosis is an error in the body of a failed request, as the OCI distribution specification
// defines it.
type diagnosis struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// login is how a request was authenticated.
type login struct {
	credential containers.Credential
	stage      stage
}

// stage is the state of the credentials of a login.
type stage int

const (
	presented stage = iota // they were sent
	granted                // a token server has accepted them
	withheld               // they were not sent
)

// String returns the likely reason for a refusal.
func (l login) String() string {
	from := l.credential.Origin
	switch {
	case l.stage == withheld:
		return "this API is used without credentials"
	case l.credential.Anonymous():
		// Docker Hub and quay.io answer like that, too, if a repository does not exist.
		return "no credentials were found, or the repository does not exist"
	case l.stage == granted:
		return "the credentials of " + from + " do not allow it, or the repository does not exist"
	default:
		return "the registry refused the credentials of " + from
	}
}

// refusal returns the error of an answer that is not a success.
func refusal(status int, found diagnosis, as login) error {
	sentinel := sentinelOf(status, found.Code)
	text := found.Message
	if text == "" {
		text = strings.ToLower(strings.ReplaceAll(found.Code, "_", " "))
	}
	if errors.Is(sentinel, ErrUnauthorized) || errors.Is(sentinel, ErrDenied) && !as.credential.Anonymous() {
		text = strings.TrimPrefix(text+"; ", "; ") + as.String()
	}
	if text == "" || strings.EqualFold(text, sentinel.Error()) {
		return sentinel
	}
	return fmt.Errorf("%w: %s", sentinel, text)
}

// errNoRepository is an ErrNotFound for a whole repository.
var errNoRepository = fmt.Errorf("%w", ErrNotFound)

// errUnknown is an ErrNotFound for a manifest or blob that the answer calls unknown. As the answer to
// a PUT of a manifest, it concerns a blob or manifest to which that refers.
var errUnknown = fmt.Errorf("%w", ErrNotFound)

func sentinelOf(status int, code string) error {
	switch code {
	case "TOOMANYREQUESTS":
		return ErrLimited
	case "NAME_UNKNOWN":
		return errNoRepository
	case "MANIFEST_UNKNOWN", "BLOB_UNKNOWN":
		return errUnknown
	case "MANIFEST_BLOB_UNKNOWN":
		return ErrBlobUnknown
	case "GOOGLE_MANIFEST_DANGLING_TAG": // Artifact Registry
		return ErrTagged
	case "GOOGLE_MANIFEST_DANGLING_PARENT_IMAGE", "VIOLATE_FOREIGN_KEY_CONSTRAINT": // Harbor
		return ErrReferenced
	}
	if status == http.StatusMethodNotAllowed && code == "DENIED" { // zot
		return ErrReferenced
	}
	switch {
	case status == http.StatusNotFound:
		return ErrNotFound
	case status == http.StatusUnauthorized:
		return ErrUnauthorized
	case status == http.StatusForbidden:
		return ErrDenied
	case status == http.StatusTooManyRequests:
		return ErrLimited
	case status == http.StatusRequestTimeout, status >= http.StatusInternalServerError:
		return ErrUnavailable
	case code == "UNSUPPORTED":
		return errUnsupported
	default:
		return ErrRejected
	}
}

// diagnose returns the registry's message in the body of a failed request: the first error of the
// JSON that the OCI distribution specification requires, the title of an HTML page, or the text
// itself.
func diagnose(body []byte) diagnosis {
	var answer struct {
		Errors []diagnosis `json:"errors"`
		// Token servers, proxies, Docker Hub's API and Quay's API have other fields.
		Details      string `json:"details"`
		Message      string `json:"message"`
		ErrorMessage string `json:"error_message"`
	}
	if json.Unmarshal(body, &answer) == nil {
		if len(answer.Errors) > 0 {
			first := answer.Errors[0]
			return diagnosis{Code: first.Code, Message: plainText(first.Message)}
		}
		return diagnosis{Message: plainText(strings.TrimSpace(answer.Details + " " + answer.Message + " " + answer.ErrorMessage))}
	}
	return diagnosis{Message: plainText(string(body))}
}

var (
	title  = regexp.MustCompile(`(?is)<title[^>]*>(.*?)</title>`)
	hidden = regexp.MustCompile(`(?is)<(?:script|style)\b.*?</(?:script|style)>|<!--.*?-->`)
	tag    = regexp.MustCompile(`(?s)<[a-zA-Z/!][^>]*>`)
)

// plainText returns the title of a page, or its text without markup.
func plainText(page string) string {
	if found := title.FindStringSubmatch(page); found != nil {
		page = found[1]
	}
	page = tag.ReplaceAllString(hidden.ReplaceAllString(page, " "), " ")
	return strings.Join(strings.Fields(html.UnescapeString(page)), " ")
}

// trouble returns the error of a request that host did not answer.
func trouble(ctx context.Context, host string, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errSlow) {
		return fmt.Errorf("%w: %w", ErrUnavailable, cause)
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // the caller describes the request
	}
	if errors.As(err, new(*budget.SpentError)) || errors.Is(err, budget.ErrBroker) || errors.Is(err, budget.ErrLate) {
		return err // the request was not sent
	}
	var untrusted *tls.CertificateVerificationError
	var broken net.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, ErrPage), errors.Is(err, ErrPlainHTTP), errors.Is(err, ErrCredentials), errors.Is(err, ErrUnexpected), errors.Is(err, ErrUnavailable),
		errors.Is(err, containers.ErrConf), errors.Is(err, containers.ErrCertificates):
		return err
	case speaksHTTP(err):
		return plainHTTP(host)
	case errors.As(err, &untrusted):
		return fmt.Errorf("%w: %w; name its CA in SSL_CERT_FILE, or add %s to INSECURE_REGISTRIES",
			ErrCertificate, untrusted.Err, host)
	case errors.As(err, &broken), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	default:
		return fmt.Errorf("%w: %w", ErrUnexpected, err)
	}
}

// pingRefusal returns the failure of a ping. The host that has answered may be another one than the
// registry.
func pingRefusal(host string, refused *transport.Error) *failure {
	var found diagnosis
	if len(refused.Errors) > 0 {
		first := refused.Errors[0]
		found = diagnosis{Code: string(first.Code), Message: plainText(first.Message)}
	}
	err := refusal(refused.StatusCode, found, login{})
	if refused.Request != nil && refused.Request.URL.Host != host {
		err = fmt.Errorf("%s: %w", refused.Request.URL.Host, err)
	}
	if refused.StatusCode == http.StatusBadRequest { // a ping has no content that could be invalid
		return &failure{cause: fmt.Errorf("%w: GET /v2/: %v (%d)", ErrUnexpected, err, refused.StatusCode)}
	}
	return handshakeFailure(refused.StatusCode, err)
}

// handshakeFailure returns the failure of a login. A 404 for a login does not mean that the manifest
// or repository does not exist.
func handshakeFailure(status int, err error) *failure {
	missing := errors.Is(err, ErrNotFound) && !errors.Is(err, errNoRepository)
	if missing || errors.Is(err, ErrRejected) && status != http.StatusBadRequest {
		return &failure{cause: fmt.Errorf("%w: the login: %v (%d)", ErrUnexpected, err, status)}
	}
	return &failure{status: status, cause: err}
}
