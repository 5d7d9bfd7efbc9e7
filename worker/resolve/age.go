package resolve

import (
	"fmt"
	"time"

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
	if updated.IsZero() {
		updated = p.sighted[tag.Name].Since
	} else if updated.Before(p.newerThan) {
		p.old = true
	}
	return !updated.IsZero() && updated.Before(p.newerThan)
}

// isAged reports whether a tag has had its digest for the minimum age, as far as is known
// without its digest.
func (p *pick) isAged(tag reference.Tag, updated time.Time) bool {
	if p.minAge == 0 {
		return true
	}
	if updated.IsZero() {
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

// few returns an *registry.Error if too few tags match, and otherwise nil.
func (p *pick) few(repository reference.Repository) error {
	if p.matched >= p.atLeast {
		return nil
	}
	return &registry.Error{Op: registry.OpTags, Repository: repository, Err: fmt.Errorf(
		"%w: %d match, expected at least %d (min_tags)", ErrFewTags, p.matched, p.atLeast)}
}
