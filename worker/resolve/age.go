package resolve

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registry"
)

// isOld reports whether a tag has had its digest for too long. Of a tag without a time, that is
// how long it was seen with the digest; one that was never seen is new.
func (p *pick) isOld(tag listing.Tag) bool {
	if p.newerThan.IsZero() {
		return false
	}
	updated := tag.Updated
	if seen := p.sighted[tag.Name]; updated.IsZero() && (tag.Digest.IsZero() || tag.Digest == seen.Digest) {
		updated = seen.Since
	} else if !updated.IsZero() && updated.Before(p.newerThan) {
		p.old = true
	}
	return !updated.IsZero() && updated.Before(p.newerThan)
}

// renew looks up the digests of stale tags, and makes those candidates that have another one than
// when they were seen. So a tag that moves after a long time is mirrored again. A tag that
// cannot be looked up is a candidate, too: then it is missed. It returns the number of pulls.
func (u *Upstream) renew(ctx context.Context, source reference.Repository, p *pick, known Known) int {
	unknown := slices.DeleteFunc(slices.Clone(p.stale), func(tag listing.Tag) bool { return !known.Digests[tag.Name].IsZero() })
	if len(unknown) == 0 {
		return 0
	}
	result, _ := u.digests(ctx, source, unknown, Known{}, false) // an error of all is found out again
	now := map[reference.Tag]message.Image{}
	for _, i := range result.Images {
		now[i.Tag] = i
	}
	p.stale = slices.DeleteFunc(p.stale, func(tag listing.Tag) bool {
		found, ok := now[tag.Name]
		tag.Digest, tag.MediaType = found.Digest, found.MediaType
		missed := slices.ContainsFunc(result.Missed, func(m Missed) bool { return m.Tag == tag.Name })
		if moved := ok && found.Digest != p.sighted[tag.Name].Digest; !moved && !missed {
			return false
		}
		p.choose(tag)
		return true
	})
	return result.Pulls
}

// isAged reports whether a tag has had its digest for the minimum age, as far as is known
// without its digest.
func (p *pick) isAged(tag reference.Tag, updated time.Time) bool {
	if p.minAge == 0 {
		return true
	}
	if updated.IsZero() && !p.moved[tag] {
		updated = p.sighted[tag].Since
	}
	return !updated.IsZero() && !updated.After(p.now.Add(-p.minAge))
}

// newest returns the newest candidates, as many as the limit says. If those are too young to be
// mirrored, it adds the newest that are old enough: a source that is updated more often than
// the minimum age would have none otherwise.
func (p *pick) newest() []selection.Candidate {
	var chosen []selection.Candidate
	aged := 0
	for i, c := range selection.Order(p.candidates) {
		if aged == p.limit {
			break
		}
		old := p.isAged(c.Tag, c.Updated)
		if old {
			aged++
		}
		if old || i < p.limit {
			chosen = append(chosen, c)
		}
	}
	return chosen
}

// picked looks up the digests of the tags that are picked. One that has moved since it was seen is
// too young, so others are picked for its place in the limit. It is looked up nevertheless: its age
// counts from then on.
func (u *Upstream) picked(ctx context.Context, source reference.Repository, p *pick, known Known) (Result, error) {
	result, err := u.digests(ctx, source, p.picked(), known, false)
	for more := result; err == nil && p.moves(more.Images); {
		if more, err = u.digests(ctx, source, p.picked(), known, false); err == nil {
			result.join(more)
		} else {
			result.Pulls += more.Pulls
		}
	}
	return result, err
}

// moves notes which images have another digest than when they were seen, and reports whether that
// changes which are old enough.
func (p *pick) moves(images []message.Image) (changed bool) {
	if p.limit == 0 || p.minAge == 0 {
		return false
	}
	for _, i := range images {
		updated := p.tags[i.Tag].Updated
		if updated.IsZero() && i.Digest != p.sighted[i.Tag].Digest && p.isAged(i.Tag, updated) {
			p.moved[i.Tag], changed = true, true
		}
	}
	return changed
}

// few returns an *registry.Error if too few tags match, and otherwise nil.
func (p *pick) few(repository reference.Repository) error {
	if p.matched >= p.atLeast {
		return nil
	}
	return &registry.Error{Op: registry.OpTags, Repository: repository, Err: fmt.Errorf(
		"%w: %d match, expected at least %d (min_tags)", ErrFewTags, p.matched, p.atLeast)}
}
