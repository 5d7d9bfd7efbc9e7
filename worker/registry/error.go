package registry

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/osism/skopeo-worker/shared/redact"
	"github.com/osism/skopeo-worker/shared/reference"
)

// What went wrong, for errors.Is.
var (
	ErrNotFound       = errors.New("not found")         // 404, or the registry knows no such name or manifest
	ErrUnauthorized   = errors.New("unauthorized")      // 401
	ErrDenied         = errors.New("denied")            // 403
	ErrLimited        = errors.New("too many requests") // 429
	ErrUnavailable    = errors.New("unavailable")       // 5xx, or no answer at all
	ErrRejected       = errors.New("rejected")          // any other status
	ErrPlainHTTP      = errors.New("speaks plain HTTP") // not in INSECURE_REGISTRIES
	ErrBlocked        = errors.New("blocked in registries.conf")
	ErrCertificate    = errors.New("certificate not trusted") // TLS verification failed
	ErrDigestMismatch = errors.New("digest mismatch")         // content and digest disagree
	ErrBadManifest    = errors.New("bad manifest")            // cannot be read
	ErrTooLarge       = errors.New("too large")               // a manifest or page beyond any sense
	ErrTooMany        = errors.New("too many")                // tags, pages or entries beyond any sense
	ErrPagination     = errors.New("no end of the list")      // its pages can't be followed to the last
	ErrUnexpected     = errors.New("unexpected answer")       // not what the OCI specification says
	ErrPage           = errors.New("no answer of a registry") // a success that is a page for people, or nothing
	ErrCredentials    = errors.New("credentials")             // they could not be read
	ErrName           = errors.New("not a repository")        // the name does not parse
	ErrHidden         = errors.New("not to be seen")          // beside a 401 or 403 of a destination; see Writing
	ErrNoReferrersAPI = errors.New("no referrers API")        // only Referrers returns it
)

// The operations an Error names.
const (
	OpTags      = "list tags of"
	OpHead      = "look up"
	OpGet       = "get"
	OpGetBlob   = "get blob"
	OpPut       = "put"
	OpReferrers = "list referrers of"
	OpReach     = "reach" // the registry, whatever the repository
)

// Error says what was asked of which registry and why it failed.
type Error struct {
	Op         string // one of the Op constants
	Repository reference.Repository
	Reference  reference.TagOrDigest // nil for a repository as a whole
	Status     int                   // HTTP status; 0 where there was no answer
	RetryAfter time.Duration         // what the registry asks to wait; 0 where it does not say
	Err        error                 // wraps one of the errors above
}

// Error is one line without secrets.
func (e *Error) Error() string {
	of := join(e.Repository, e.Reference)
	if e.Op == OpReach {
		of = e.Repository.Registry()
	}
	text := fmt.Sprintf("%s %s: %v", e.Op, of, e.Err)
	if e.Status >= http.StatusMultipleChoices {
		text += fmt.Sprintf(" (%d)", e.Status)
	}
	return redact.Line(text)
}

func (e *Error) Unwrap() error { return e.Err }

// about makes an *Error of an error that is none yet.
func about(err error, op string, repository reference.Repository, name reference.TagOrDigest) error {
	if named := (*Error)(nil); err == nil || errors.As(err, &named) {
		return err
	}
	return &Error{Op: op, Repository: repository, Reference: name, Err: err}
}

// join writes a reference as a user would.
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
