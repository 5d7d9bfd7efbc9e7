package chunk

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// Registries knows which registries are closed for the fleet.
type Registries interface {
	// Open returns an error of class outcome.Limited if the registry of a repository is closed.
	// probing is true if a registry is away and this worker is to probe it.
	Open(ctx context.Context, repositories ...reference.Repository) (probing bool, err error)
	// Blames returns an error of class outcome.Limited if a registry that is away now may have
	// caused the given error, and otherwise nil.
	Blames(ctx context.Context, err error) error
	// Known notes that the destination has the digest.
	Known(source, destination reference.Repository, digest reference.Digest)
}

// admit divides repositories into those for this round and those for the next. While this worker
// probes a registry, a round has only one of its repositories, because a failed probe saves the
// others. Repositories of a closed registry are postponed.
func (e *execution) admit(todo []message.Repository) (now, then []message.Repository) {
	probed := false
	for _, r := range todo {
		if e.stopping() || e.isLimited(r.Source) || e.isLimited(r.Destination) {
			e.postpone(r, r.Images, 0)
			continue
		}
		probing, err := e.worker.Registries.Open(e.work, r.Source, r.Destination)
		switch {
		case err != nil:
			e.log.Info("a repository waits for a registry", "repository", r.Source, "reason", outcome.Reason(err))
			e.postpone(r, r.Images, e.limit(r, err))
		case probing && probed:
			then = append(then, r)
		default:
			now, probed = append(now, r), probed || probing
		}
	}
	return now, then
}

// blamed reports whether a failure is the fault of a registry that is away, and how long to wait
// for it. Such a failure does not count as a try of the image.
func (e *execution) blamed(r message.Repository, err error) (after time.Duration, away bool) {
	if closed := e.worker.Registries.Blames(e.work, err); closed != nil {
		return e.limit(r, closed), true
	}
	return 0, false
}

// doubt is the failure of a last try that a registry may have caused. Whether the registry is
// away is known at the end of the round.
type doubt struct {
	repository message.Repository
	failed     attempt
	listing    bool // of the repository, instead of an image
}

// doubtful reports whether a registry may have caused a failure.
func (e *execution) doubtful(err error) bool {
	_, suspected := outcome.Suspect(err)
	return suspected
}

func (e *execution) doubt(d doubt) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.doubts = append(e.doubts, d)
}

// decideDoubts records doubtful failures. If the round has shown that a registry is away, it
// postpones their images instead.
func (e *execution) decideDoubts(ctx context.Context) error {
	doubts := e.doubts
	e.doubts = nil
	for len(doubts) > 0 {
		first := doubts[0]
		var final []attempt
		doubts = slices.DeleteFunc(doubts, func(d doubt) bool {
			same := d.listing == first.listing && compare.EntryOf(d.repository) == compare.EntryOf(first.repository)
			if same && !e.absolve(d) {
				final = append(final, d.failed)
			}
			return same
		})
		if len(final) == 0 {
			continue
		}
		if first.listing {
			e.tally(func(p *progress) { p.images.Total += len(final) })
		}
		if err := e.giveUp(ctx, first.repository, final...); err != nil {
			return err
		}
	}
	return nil
}

// absolve postpones a doubtful failure if a registry is away, and reports whether it has. The try
// does not count.
func (e *execution) absolve(d doubt) bool {
	after, away := e.blamed(d.repository, d.failed.err)
	switch {
	case !away:
		return false
	case d.listing:
		d.repository.Attempts--
		e.postpone(d.repository, nil, after)
	default:
		d.failed.image.Attempts--
		e.postpone(d.repository, []message.Image{d.failed.image}, after)
	}
	return true
}

// limitedPause is how long a chunk waits for a registry that sends no Retry-After with its
// refusal. Such registries limit the requests of a second or a minute.
const limitedPause = time.Minute

// limit notes that a registry limits this worker, and returns how long to wait.
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
	e.limited[host] = true
	if asked != nil || errors.As(err, &asked) {
		// The host may be that of the registry's blobs. Without them, its manifests would be pulled in vain.
		e.limited[asked.Repository.Registry()] = true
	}
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

// turn returns a random delay, because many workers wait for the same moment. A delivery without
// a pull gets a delay in the first half, so that it comes before those that had one.
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

// isLimited reports whether the registry of a repository has limited this worker during this
// delivery. Further requests would prolong the limit.
func (e *execution) isLimited(repository reference.Repository) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.limited[repository.Registry()]
}
