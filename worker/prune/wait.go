package prune

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	// maxPause is the longest time that a registry which limits requests is waited for. What
	// was read before would be too old then.
	maxPause = time.Minute
	// minPause is the first pause if the registry does not say how long; each is twice as long
	// as the one before.
	minPause = time.Second
	// limitedAttempts is how often a request is sent that is limited, over two minutes.
	limitedAttempts = 8
)

// ErrAway is returned if a registry does not answer, or allows nothing for longer than an
// execution waits. Another execution continues.
var ErrAway = exit.Unfinished.New("a registry is away, or allows nothing for now")

// Guard returns a guard for registry.Options that waits for registries which limit requests.
// pause waits for a time or until ctx ends.
func Guard(pause func(ctx context.Context, d time.Duration) error) func(context.Context, registry.Request, func() error) error {
	return func(ctx context.Context, _ registry.Request, send func() error) error {
		for attempt, wait := 1, minPause; ; attempt, wait = attempt+1, min(2*wait, maxPause) {
			err := send()
			after := outcome.RetryAfter(err)
			if err == nil || outcome.Classify(err) != outcome.Limited || isClosed(err) || after > maxPause || attempt == limitedAttempts {
				return err
			}
			if after == 0 {
				after = wait
			}
			if ended := pause(ctx, after); ended != nil {
				return ended
			}
		}
	}
}

// Sleep waits for a time. It returns the cause if ctx ends before.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// isClosed reports whether the workers have found a registry to be away. When it comes back is
// unknown.
func isClosed(err error) bool {
	spent, ok := errors.AsType[*budget.SpentError](err)
	return ok && !spent.Since.IsZero()
}

// away returns the registry that is away, or allows nothing for now, according to an error; "" if
// the error has another reason.
func away(err error) string {
	if spent, ok := errors.AsType[*budget.SpentError](err); ok {
		return spent.Registry
	}
	asked, ok := errors.AsType[*registry.Error](err)
	if !ok {
		return ""
	}
	gone := errors.Is(asked, registry.ErrUnavailable)
	switch asked.Status {
	case 0, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	default:
		gone = false
	}
	if gone || errors.Is(asked, registry.ErrLimited) {
		return asked.Repository.Registry()
	}
	return ""
}
