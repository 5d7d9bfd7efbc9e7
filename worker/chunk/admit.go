package chunk

import (
	"context"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/compare"
	"github.com/osism/skopeo-worker/worker/outcome"
)

// Registries knows which registries are closed for the fleet, and finds it out.
type Registries interface {
	// Open returns an error that is outcome.Limited if one of the repositories' registries is
	// closed, and true if one is away and this worker is to find out whether it is back.
	Open(ctx context.Context, repositories ...reference.Repository) (probing bool, err error)
	// Blames returns such an error if a failure may be the fault of a registry that is away by
	// now, and otherwise nil.
	Blames(ctx context.Context, err error) error
	// Known notes that the destination has the digest.
	Known(source, destination reference.Repository, digest reference.Digest)
}

// admit returns what is to be done now, and what after it. While a registry is probed,
// that is one repository after the other: the first may show that nothing else has to be
// tried. What needs a closed registry is left for later.
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

// blamed returns how long to wait if a failure is the fault of a registry that is away: then
// it does not count as a try of the image.
func (e *execution) blamed(r message.Repository, err error) (after time.Duration, away bool) {
	if closed := e.worker.Registries.Blames(e.work, err); closed != nil {
		return e.limit(r, closed), true
	}
	return 0, false
}

// doubt is a try that was the last one, and whose failure may yet turn out to be the
// fault of a registry.
type doubt struct {
	repository message.Repository
	failed     attempt
	listing    bool // of the repository, instead of an image
}

// doubtful reports whether a failure may be the fault of a registry.
func (e *execution) doubtful(err error) bool {
	_, suspected := outcome.Suspect(err)
	return suspected
}

func (e *execution) doubt(d doubt) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.doubts = append(e.doubts, d)
}

// decideDoubts gives up what was in doubt, unless the rest of the round has shown that a
// registry is away: then it was no try.
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

// absolve keeps what was in doubt for later if a registry is away, and reports whether it
// is.
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
