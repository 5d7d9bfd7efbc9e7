package resolve

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
)

// isOld reports whether a tag has had its digest for longer than newer_than. Without a time in the
// listing, the time of its sighting counts. A tag without either is new.
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

// renew looks up the digests of stale tags. Those that have moved since their sighting become
// candidates, so that a tag that moves after a long time is mirrored again. A tag that cannot be
// looked up also becomes a candidate, so that it is reported as missed. renew returns the number of
// pulls.
func (u *Upstream) renew(ctx context.Context, source reference.Repository, p *pick, known Known) int {
	unknown := slices.DeleteFunc(slices.Clone(p.stale), func(tag listing.Tag) bool { return !known.Digests[tag.Name].IsZero() })
	if len(unknown) == 0 {
		return 0
	}
	result, _ := u.digests(ctx, source, unknown, Known{}, false) // the look-up of the candidates returns the error
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

// isAged reports whether a tag has had its digest for the minimum age, as far as that is known
// before the digest is looked up.
func (p *pick) isAged(tag reference.Tag, updated time.Time) bool {
	if p.minAge == 0 {
		return true
	}
	if updated.IsZero() && !p.moved[tag] {
		updated = p.sighted[tag].Since
	}
	return !updated.IsZero() && !updated.After(p.now.Add(-p.minAge))
}

// newest returns the newest candidates, up to the limit. In addition, it returns the newest ones
// that are old enough, up to the limit; otherwise, nothing would be mirrored of a source that is
// updated more often than the minimum age.
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

// picked looks up the digests of the picked tags. A tag that has moved since its sighting is too
// young, so another one is picked in its place. It stays in the result, because its age counts from
// now on.
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

// moves notes the images that have moved since their sighting. It reports whether one of them was
// taken for old enough.
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

// few returns an *registry.Error if fewer tags match than min_tags, and otherwise nil.
func (p *pick) few(repository reference.Repository) error {
	if p.matched >= p.atLeast {
		return nil
	}
	return &registry.Error{Op: registry.OpTags, Repository: repository, Err: fmt.Errorf(
		"%w: %d match, expected at least %d (min_tags)", ErrFewTags, p.matched, p.atLeast)}
}

// standing adds to a result since when named tags have their digests, if the entry has a minimum
// age and the source lists times. It lists the source only if no worker has seen one of the digests
// under its tag before. If the listing fails for good, such tags count as new.
func (u *Upstream) standing(ctx context.Context, r message.Repository, known Known, result Result) (Result, error) {
	lister := u.Listing.For(r.Source)
	if r.Selection == nil || r.Selection.MinAge == 0 || !lister.NewestFirst() {
		return result, nil
	}
	wanted := map[reference.Tag]reference.Digest{}
	for _, i := range result.Images {
		if known.Sighted[i.Tag].Digest != i.Digest {
			wanted[i.Tag] = i.Digest
		}
	}
	if len(wanted) == 0 {
		return result, nil
	}
	for tag, err := range lister.Tags(ctx, r.Source) {
		if errors.As(err, new(*registry.TagError)) {
			continue
		}
		if err != nil {
			return result, u.unlisted(r, err)
		}
		if wanted[tag.Name].IsZero() {
			continue
		}
		result.note(tag.Name, Listed{Digest: tag.Digest, Updated: tag.Updated, Size: tag.Size, Platforms: tag.Platforms})
		if delete(wanted, tag.Name); len(wanted) == 0 {
			break
		}
	}
	return result, nil
}

// unlisted returns the error of a listing that is needed only for times, or nil if a retry is not
// worthwhile.
func (u *Upstream) unlisted(r message.Repository, err error) error {
	switch class := outcome.Classify(err); {
	case class == outcome.Limited, class == outcome.Interrupted, class == outcome.Transient && r.Attempts < bulkTries:
		return err
	}
	return nil
}
