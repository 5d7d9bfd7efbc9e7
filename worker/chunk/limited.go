package chunk

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// limitedPause is how long a chunk is left alone for a registry that limits us and
// does not say for how long. The limits that come without a Retry-After are those
// of requests a second or a minute.
const limitedPause = time.Minute

// limit notes that a registry limits us, and returns how long to wait.
func (e *execution) limit(r message.Repository, err error) time.Duration {
	host := r.Source.Registry()
	asked, copied, spent := (*registry.Error)(nil), (*skopeo.Error)(nil), (*budget.SpentError)(nil)
	switch {
	case errors.As(err, &spent):
		host = spent.Registry
	case errors.As(err, &asked):
		host = asked.Repository.Registry()
	case errors.As(err, &copied) && copied.Registry == r.Destination.Registry():
		host = copied.Registry
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.limited == nil {
		e.limited = map[string]bool{}
	}
	e.limited[host] = true
	switch {
	case spent == nil || spent.Since.IsZero():
	case spent.CutOff:
		e.cutOff = true
	default:
		e.away = spent.Registry
	}
	if after := outcome.RetryAfter(err); after > 0 {
		return after + e.turn(after)
	}
	return jitter(limitedPause)
}

// turn spreads workers that have to wait until the same moment: a worker that has had no
// pull this time comes in the first half, before those that have.
func (e *execution) turn(after time.Duration) time.Duration {
	half := budget.Spread(after) / 2
	turn := rand.N(half)
	e.progress.mu.Lock()
	defer e.progress.mu.Unlock()
	if e.progress.pulls > 0 {
		turn += half
	}
	return turn
}

// isLimited reports whether the registry of the repository has limited us in this
// delivery: asking on would only make it worse.
func (e *execution) isLimited(repository reference.Repository) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.limited[repository.Registry()]
}
