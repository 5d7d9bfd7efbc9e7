package chunk

import (
	"context"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
)

// Registries knows which registries are closed for the fleet, and finds it out.
type Registries interface {
	// Open returns an error that is outcome.Limited where one of the repositories'
	// registries is closed, and true where one is away and this worker is to find out
	// whether it is back.
	Open(ctx context.Context, repositories ...reference.Repository) (probing bool, err error)
	// Blames returns such an error where a failure may be the fault of a registry that is
	// away by now, and otherwise nil.
	Blames(ctx context.Context, err error) error
	// Known notes that the destination has the digest.
	Known(source, destination reference.Repository, digest reference.Digest)
}

// admit returns what is to be done now, and what after it. While a registry is probed,
// that is one repository after the other: the first may tell that nothing else has to be
// tried. What needs a closed registry is left for later.
func (t *task) admit(todo []message.Repository) (now, then []message.Repository) {
	probed := false
	for _, r := range todo {
		if t.stopping() || t.limits(r.Source) || t.limits(r.Destination) {
			t.later(r, r.Images, 0)
			continue
		}
		probing, err := t.Registries.Open(t.work, r.Source, r.Destination)
		switch {
		case err != nil:
			t.log.Info("a repository waits for a registry", "repository", r.Source, "reason", outcome.Reason(err))
			t.later(r, r.Images, t.limit(r, err))
		case probing && probed:
			then = append(then, r)
		default:
			now, probed = append(now, r), probed || probing
		}
	}
	return now, then
}

// blamed returns how long to wait where a failure is the fault of a registry that is
// away: then it is no try of the image.
func (t *task) blamed(r message.Repository, err error) (after time.Duration, away bool) {
	if closed := t.Registries.Blames(t.work, err); closed != nil {
		return t.limit(r, closed), true
	}
	return 0, false
}

// doubt is a try that was the last one, and whose failure may yet turn out to be the
// fault of a registry.
type doubt struct {
	repository message.Repository
	try
	listing bool // of the repository, instead of an image
}

// doubtful reports whether a failure may be the fault of a registry.
func (t *task) doubtful(err error) bool {
	_, suspected := outcome.Suspect(err)
	return suspected
}

func (t *task) doubt(d doubt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.doubts = append(t.doubts, d)
}

// decide gives up what was in doubt, unless the rest of the round has shown that a
// registry is away: then it was no try.
func (t *task) decide(ctx context.Context) error {
	doubts := t.doubts
	t.doubts = nil
	for len(doubts) > 0 {
		first := doubts[0]
		var final []try
		doubts = slices.DeleteFunc(doubts, func(d doubt) bool {
			same := d.listing == first.listing && sameEntry(d.repository, first.repository)
			if same && !t.absolve(d) {
				final = append(final, d.try)
			}
			return same
		})
		if len(final) == 0 {
			continue
		}
		if first.listing {
			t.note(func(p *progress) { p.images.Total += len(final) })
		}
		if err := t.giveUp(ctx, first.repository, final...); err != nil {
			return err
		}
	}
	return nil
}

// absolve keeps what was in doubt for later where a registry is away, and reports whether
// it is.
func (t *task) absolve(d doubt) bool {
	after, away := t.blamed(d.repository, d.err)
	switch {
	case !away:
		return false
	case d.listing:
		d.repository.Attempts--
		t.later(d.repository, nil, after)
	default:
		d.image.Attempts--
		t.later(d.repository, []message.Image{d.image}, after)
	}
	return true
}

// has notes that the destination has the digest for one of the source.
func (t *task) has(r message.Repository, digest, at reference.Digest) {
	t.held.add(r, digest, at)
	t.Registries.Known(r.Source, r.Destination, at)
}
