// Package outcome decides what a failure means: whether to try again, to wait,
// to look again, or to give up. It is the one place where that is decided.
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
	"github.com/osism/skopeo-worker/worker/throttle"
)

// Class is what a failure means.
type Class int

const (
	// Transient may pass by itself: try again later.
	Transient Class = iota
	// Final will be the same next time: give up.
	Final
	// Limited is a registry that wants us to slow down: wait, without blame on
	// the image.
	Limited
	// Gone is a digest the source no longer has: its tag has moved or vanished
	// since it was resolved, so resolve it again.
	Gone
	// Interrupted is us: the context was cancelled.
	Interrupted
)

func (c Class) String() string {
	return [...]string{"transient", "final", "limited", "gone", "interrupted"}[c]
}

// Classify returns what an error of the packages registry and skopeo means.
// What it does not know is Transient: a needless try costs little, and attempts
// are counted.
func Classify(err error) Class {
	if errors.Is(err, context.Canceled) {
		return Interrupted
	}
	if spent := (*budget.SpentError)(nil); errors.As(err, &spent) || errors.Is(err, throttle.ErrBroker) || errors.Is(err, budget.ErrLate) {
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

// permanent are the failures of requests that are answers: asking again gets
// the same one.
var permanent = []error{
	registry.ErrNotFound,
	registry.ErrUnauthorized, // credentials do not mend themselves
	registry.ErrDenied,       // nor do permissions
	registry.ErrRejected,     // the registry has understood and does not want it
	registry.ErrBlocked,
	registry.ErrPlainHTTP,      // needs INSECURE_REGISTRIES
	registry.ErrCertificate,    // needs a CA, or INSECURE_REGISTRIES
	registry.ErrDigestMismatch, // content at rest is wrong: connections that break end in errors of their own
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
			return Gone // a tag that is not found does not exist
		}
	}
	for _, final := range permanent {
		if errors.Is(asked, final) {
			return Final
		}
	}
	// ErrUnavailable: 5xx, timeouts, resets, DNS, refused connections.
	// ErrPage: a proxy whose registry is away, or a registry that has just started.
	// ErrUnexpected: mostly the same.
	return Transient
}

func classifyCopy(copied *skopeo.Error) Class {
	if errors.Is(copied, skopeo.ErrLimited) {
		return Limited
	}
	if copied.ExitCode <= 0 {
		// A timeout, a signal from somebody else (out of memory), or a skopeo
		// that is missing or being upgraded: it is not about the image.
		return Transient
	}
	return classifyText(copied.Reason)
}

// brokerPause is how long to wait for a broker that does not tell whether a registry
// may be asked: as long as one takes to restart.
const brokerPause = 5 * time.Second

// latePause is how long to wait where this machine was too busy to use a token in
// time.
const latePause = 2 * time.Second

// RetryAfter returns how long to wait, where the budget or the registry that failed
// says so, and 0 where neither does.
func RetryAfter(err error) time.Duration {
	if spent := (*budget.SpentError)(nil); errors.As(err, &spent) {
		return max(time.Until(spent.Slot), time.Millisecond)
	}
	if errors.Is(err, throttle.ErrBroker) {
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

// Reason returns what a person reads in a failure record: one line without
// secrets, and where a setting would help, which.
func Reason(err error) string {
	text := err.Error()
	if copied := (*skopeo.Error)(nil); errors.As(err, &copied) {
		text += hint(copied)
	}
	return redact.Line(text)
}
