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

// heads is how many requests to a repository are under way at once, and how many in a row may have
// no answer before no more are sent.
const heads = 16

// digests looks up the digests that neither the listing nor known has. Errors of single tags are in
// the result. If the registry has not answered for any tag, the error is that of the first one; it
// may also be ctx's.
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

// join adds the result for other tags.
func (r *Result) join(other Result) {
	r.Images = append(r.Images, other.Images...)
	r.Missed = append(r.Missed, other.Missed...)
	r.Vanished = append(r.Vanished, other.Vanished...)
	for tag, listed := range other.Listed {
		r.note(tag, listed)
	}
	r.Pulls += other.Pulls
}

// note adds the listing's data of a tag, unless it is empty.
func (r *Result) note(tag reference.Tag, listed Listed) {
	if listed.Size == 0 && len(listed.Platforms) == 0 && listed.Updated.IsZero() {
		return
	}
	if r.Listed == nil {
		r.Listed = map[reference.Tag]Listed{}
	}
	r.Listed[tag] = listed
}

// patience decides when to send a registry no more requests: if it limits requests, or is away.
type patience struct {
	mu       sync.Mutex
	answered bool
	first    error // first request without an answer
	silent   int   // number of requests in a row without an answer
	why      error
}

// over returns the reason to send no more requests, or nil.
func (p *patience) over() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why
}

// note notes the result of a request.
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

// limits reports whether a registry limits requests. A *budget.SpentError does not count: a spent
// pull budget stops no HEAD, and requests to a closed registry fail without being sent.
func limits(err error) bool {
	return outcome.Classify(err) == outcome.Limited && !errors.As(err, new(*budget.SpentError))
}

// unanswered reports whether a request had no answer.
func unanswered(err error) bool {
	var asked *registry.Error
	return errors.Is(err, registry.ErrUnavailable) && errors.As(err, &asked) && asked.Status == 0
}
