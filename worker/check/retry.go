package check

import (
	"context"
	"errors"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	// attempts is how often something is tried that may pass. With pauses of 1, 2 and
	// 4 seconds that outlasts a hiccup, and somebody is waiting.
	attempts = 4
	// limitedAttempts is how often a registry is asked that refuses us, over two minutes.
	limitedAttempts = 8
	// maxPause is the longest time that a registry which limits us is waited for.
	maxPause = time.Minute
)

// insist makes a request, and again where its failure may pass. A host that did not
// answer in the end is then asked once for everything else.
func (t *task) insist(ctx context.Context, repository reference.Repository, request func() error) error {
	host := repository.Registry()
	for attempt := 1; ; {
		err := request()
		if err == nil || !mayPass(err) {
			return err
		}
		after := outcome.RetryAfter(err)
		if after > maxPause {
			return err
		}
		tried := attempt
		// Whose turn has not come has not been refused: a list of some hundred
		// repositories has to get through.
		// But nobody tells when a registry is back that is away.
		if spent := (*budget.SpentError)(nil); !errors.As(err, &spent) || !spent.Since.IsZero() {
			if attempt >= most(err) || t.isSilent(host) {
				if !answered(err) {
					t.noteSilent(host)
				}
				return err
			}
			attempt++
		}
		timer := time.NewTimer(max(min(t.Backoff(tried), maxPause), after))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// most is how often something is tried that fails like this.
func most(err error) int {
	if errors.Is(err, registry.ErrLimited) {
		return limitedAttempts
	}
	return attempts
}

// mayPass tells whether a failure is worth another try.
func mayPass(err error) bool {
	class := outcome.Classify(err)
	return (class == outcome.Transient || class == outcome.Limited) && !errors.Is(err, ErrPull)
}

// answered tells whether the registry itself has answered.
func answered(err error) bool {
	var asked *registry.Error
	return errors.As(err, &asked) && asked.Status != 0
}

func (t *task) isSilent(host string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.silent[host]
}

func (t *task) noteSilent(host string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.silent[host] = true
}
