// Package outcome decides for all other packages what an error means: retry, wait, resolve again,
// or fail.
package outcome

import (
	"context"
	"errors"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/redact"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/policy"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// Class is what an error means.
type Class int

const (
	// Transient errors may pass: retry later.
	Transient Class = iota
	// Final errors do not pass: the image fails.
	Final
	// Limited means that the registry, its budget or the broker allows nothing now: wait, and do
	// not count the attempt.
	Limited
	// Gone means that the source no longer has a digest. Its tag has moved or vanished since
	// it was resolved: resolve it again.
	Gone
	// Interrupted means that the context was cancelled.
	Interrupted
)

func (c Class) String() string {
	return [...]string{"transient", "final", "limited", "gone", "interrupted"}[c]
}

// Classify returns what an error of the packages registry and skopeo means. An unknown error is
// Transient: a needless retry costs little, and retries are limited.
func Classify(err error) Class {
	if errors.Is(err, context.Canceled) {
		return Interrupted
	}
	if spent := (*budget.SpentError)(nil); errors.As(err, &spent) || errors.Is(err, budget.ErrBroker) || errors.Is(err, budget.ErrLate) {
		return Limited
	}
	if asked := (*registry.Error)(nil); errors.As(err, &asked) {
		return classifyAnswer(asked)
	}
	if copied := (*skopeo.Error)(nil); errors.As(err, &copied) {
		return classifyCopy(copied)
	}
	return Transient
}

// permanent are the errors of requests that would have the same answer again.
var permanent = []error{
	registry.ErrNotFound,
	registry.ErrUnauthorized, // until the credentials are changed
	registry.ErrDenied,       // until the permissions are changed
	registry.ErrRejected,     // the registry refuses the content
	registry.ErrBlocked,
	registry.ErrPlainHTTP,      // needs INSECURE_REGISTRIES
	registry.ErrCertificate,    // needs a CA, or INSECURE_REGISTRIES
	registry.ErrDigestMismatch, // the stored content is wrong: broken connections have errors of their own
	registry.ErrBadManifest,
	registry.ErrTooLarge,
	registry.ErrTooMany,
	registry.ErrName,
	reference.ErrInvalidTag,
	policy.ErrRejected,
	policy.ErrUnreadable,
	policy.ErrUnenforceable,
}

func classifyAnswer(asked *registry.Error) Class {
	switch {
	case errors.Is(asked, registry.ErrLimited):
		return Limited
	case errors.Is(asked, registry.ErrNotFound) && asked.Op != registry.OpPut && asked.Op != registry.OpGetBlob:
		if _, byDigest := asked.Reference.(reference.Digest); byDigest {
			return Gone // a tag that is not found is Final
		}
	case errors.Is(asked, registry.ErrUploadUnknown):
		return Transient // another try begins another upload
	}
	for _, final := range permanent {
		if errors.Is(asked, final) {
			return Final
		}
	}
	// ErrUnavailable: 5xx, timeouts, resets, DNS, refused connections.
	// ErrPage: a proxy whose registry is away, or a registry that has just started.
	// ErrUnexpected: usually the same.
	return Transient
}

func classifyCopy(copied *skopeo.Error) Class {
	if errors.Is(copied, skopeo.ErrLimited) {
		return Limited
	}
	if copied.ExitCode <= 0 {
		// A timeout, a signal (out of memory), or a skopeo that is missing or being
		// upgraded: the image is not to blame.
		return Transient
	}
	return classifyText(copied.Reason)
}

const (
	// brokerPause is the wait after budget.ErrBroker. A broker restarts in that time.
	brokerPause = 5 * time.Second
	// latePause is the wait after budget.ErrLate.
	latePause = 2 * time.Second
)

// RetryAfter returns how long to wait before a retry, or 0 if the error does not state it.
func RetryAfter(err error) time.Duration {
	if spent := (*budget.SpentError)(nil); errors.As(err, &spent) {
		return max(time.Until(spent.Slot), time.Millisecond)
	}
	if errors.Is(err, budget.ErrBroker) {
		return brokerPause
	}
	if errors.Is(err, budget.ErrLate) {
		return latePause
	}
	if asked := (*registry.Error)(nil); errors.As(err, &asked) {
		return asked.RetryAfter
	}
	if copied := (*skopeo.Error)(nil); errors.As(err, &copied) {
		return copied.RetryAfter
	}
	return 0
}

// Reason returns the text for a failure record: one line without secrets, with the setting that
// solves the problem if there is one.
func Reason(err error) string {
	text := err.Error()
	if copied := (*skopeo.Error)(nil); errors.As(err, &copied) {
		text += hint(copied)
	}
	return redact.Line(text)
}
