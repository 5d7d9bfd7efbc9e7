package resolve

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/osism/skopeo-worker/shared/budget"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
)

// heads bounds the requests of one repository that are under way at once, and those in
// a row that may go without an answer before no more are made.
const heads = 16

// digests looks up the tags whose digests the listing does not have. Errors of single tags are in
// the result. The error is that of one of the tags if the registry has answered for none, or ctx's.
func (u *Upstream) digests(ctx context.Context, repository reference.Repository, tags []listing.Tag, known Known, named bool) (Result, error) {
	found := make([]registry.Descriptor, len(tags))
	missed := make([]error, len(tags))
	var asked patience
	var group errgroup.Group
	group.SetLimit(heads)
	for i, tag := range tags {
		if !tag.Digest.IsZero() {
			found[i] = registry.Descriptor{Digest: tag.Digest, MediaType: tag.MediaType}
			continue
		}
		if !known.Digests[tag.Name].IsZero() {
			found[i].Digest = known.Digests[tag.Name]
			continue
		}
		group.Go(func() error {
			if missed[i] = asked.over(); missed[i] == nil {
				found[i], missed[i] = u.Registry.Find(ctx, repository, tag.Name)
				asked.note(missed[i])
			}
			return nil
		})
	}
	_ = group.Wait() // the errors are in missed
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	var result Result
	for i, tag := range tags {
		result.Pulls += pulls(found[i])
		switch {
		case errors.Is(missed[i], registry.ErrNotFound) && !named:
			result.Vanished = append(result.Vanished, tag.Name)
		case missed[i] != nil:
			result.Missed = append(result.Missed, Missed{Tag: tag.Name, Err: missed[i]})
		default:
			result.Images = append(result.Images, image(tag.Name, found[i]))
			result.note(tag.Name, Listed{Digest: tag.Digest, Updated: tag.Updated, Size: tag.Size, Platforms: tag.Platforms})
		}
	}
	return result, asked.inVain()
}

// join adds what was found out about other tags.
func (r *Result) join(other Result) {
	r.Images = append(r.Images, other.Images...)
	r.Missed = append(r.Missed, other.Missed...)
	r.Vanished = append(r.Vanished, other.Vanished...)
	for tag, listed := range other.Listed {
		r.note(tag, listed)
	}
	r.Pulls += other.Pulls
}

// note keeps the listing's data of a tag.
func (r *Result) note(tag reference.Tag, listed Listed) {
	if listed.Size == 0 && len(listed.Platforms) == 0 && listed.Updated.IsZero() {
		return
	}
	if r.Listed == nil {
		r.Listed = map[reference.Tag]Listed{}
	}
	r.Listed[tag] = listed
}

// patience decides when a registry is asked no more: it limits us, or is away.
type patience struct {
	mu       sync.Mutex
	answered bool
	first    error // of those that came without an answer
	silent   int   // of those in a row
	why      error
}

// over returns why nothing more is asked, or nil.
func (p *patience) over() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why
}

// note learns from the outcome of a request.
func (p *patience) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case limits(err):
		p.why = err
	case unanswered(err):
		p.silent++
		if p.silent >= heads {
			p.why = err
		}
	case outcome.Classify(err) == outcome.Limited:
	default:
		p.answered, p.silent = true, 0
		return
	}
	if p.first == nil {
		p.first = err
	}
}

// inVain returns the first error if no tag had an answer.
func (p *patience) inVain() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answered {
		return nil
	}
	return p.first
}

// limits reports whether an error means that nothing is to be asked for a while. A budget of
// pulls that is spent does not: it stops no HEAD, and if the registry is closed, each
// request fails at once.
func limits(err error) bool {
	return outcome.Classify(err) == outcome.Limited && !errors.As(err, new(*budget.SpentError))
}

// unanswered reports whether an error is not about the tag that was asked for, because no
// answer came.
func unanswered(err error) bool {
	var asked *registry.Error
	return errors.Is(err, registry.ErrUnavailable) && errors.As(err, &asked) && asked.Status == 0
}
