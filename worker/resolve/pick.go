package resolve

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registry"
)

// pick selects tags from a listing.
type pick struct {
	matcher    *selection.Matcher
	everything bool // the entry selects all tags
	limit      int
	atLeast    int       // min_tags
	newerThan  time.Time // zero if tags may have any age
	minAge     time.Duration
	aged       int // number of candidates that are old enough
	sighted    map[reference.Tag]Sighting
	now        time.Time

	tags       map[reference.Tag]listing.Tag // the candidates
	others     []reference.Tag               // listed tags that are no candidates
	candidates []selection.Candidate
	chosen     map[reference.Tag]bool // picked candidates; empty without a limit, because all are picked
	moved      map[reference.Tag]bool // candidates that have moved since their sighting
	timeless   bool                   // a candidate has no time in the listing
	stale      []listing.Tag          // tags that are too old unless they have moved since their sighting
	companions Companions
	windows    []reference.Tag
	listed     int  // number of listed tags, without the tags in companions
	count      int  // number of listed tags, without any tags of companions
	matched    int  // number of tags that match the selection, apart from age and limit
	old        bool // a matching tag is too old, in a listing with times
	invalid    invalid
}

func newPick(s *selection.Selection, sighted map[reference.Tag]Sighting) (*pick, error) {
	if s == nil {
		s = &selection.Selection{}
	}
	matcher, err := s.Compile()
	p := &pick{
		matcher: matcher, everything: s.Tags().IsZero(), limit: s.Limit, atLeast: s.MinTags, sighted: sighted, now: time.Now(),
		tags: map[reference.Tag]listing.Tag{}, companions: Companions{}, chosen: map[reference.Tag]bool{}, moved: map[reference.Tag]bool{},
	}
	p.minAge = time.Duration(s.MinAge)
	if s.NewerThan > 0 {
		p.newerThan = p.now.Add(-time.Duration(s.NewerThan))
	}
	return p, err
}

func (p *pick) add(tag listing.Tag) {
	if !p.everything && p.companions.add(tag) {
		p.others = append(p.others, tag.Name)
		return
	}
	p.listed++
	if _, companion := selection.Companion(tag.Name.String()); !companion {
		p.count++
	}
	switch {
	case !p.matcher.Match(tag.Name.String()):
		p.others = append(p.others, tag.Name)
	case p.isOld(tag):
		p.matched++
		if tag.Updated.IsZero() && tag.Digest.IsZero() {
			p.stale = append(p.stale, tag)
		} else {
			p.others = append(p.others, tag.Name)
		}
	case tag.WindowsOnly():
		p.matched++
		p.others = append(p.others, tag.Name)
		p.windows = append(p.windows, tag.Name)
	default:
		p.matched++
		p.choose(tag)
	}
}

// choose makes a tag a candidate.
func (p *pick) choose(tag listing.Tag) {
	p.tags[tag.Name] = tag
	p.candidates = append(p.candidates, selection.Candidate{Tag: tag.Name, Updated: tag.Updated})
	p.timeless = p.timeless || tag.Updated.IsZero()
	if p.isAged(tag.Name, tag.Updated) {
		p.aged++
	}
}

// all returns the tags that were added.
func (p *pick) all() []reference.Tag {
	all := slices.AppendSeq(slices.Grow(p.others, len(p.tags)+len(p.stale)), maps.Keys(p.tags))
	for _, tag := range p.stale {
		all = append(all, tag.Name)
	}
	return all
}

// selected returns the picked tags, and those for Windows only.
func (p *pick) selected() []reference.Tag {
	tags := slices.Clone(p.windows)
	for _, c := range p.candidates {
		if p.limit == 0 || p.chosen[c.Tag] {
			tags = append(tags, c.Tag)
		}
	}
	return tags
}

// full reports whether the rest of a listing, ordered by time, cannot have further tags to pick.
// Signatures are newer than their image, so they precede it in the listing.
func (p *pick) full() bool {
	return (p.limit > 0 && p.aged >= p.limit || p.old) && !p.timeless && p.matched >= p.atLeast
}

// unselected returns why no tag was picked, or "". The reason is usually a typing error in the list.
func (p *pick) unselected() string {
	switch {
	case len(p.candidates) > 0 || len(p.windows) > 0 || len(p.invalid.seen) > 0:
		return ""
	case p.listed == 0:
		return "the registry lists no tags"
	case p.matched > 0:
		return fmt.Sprintf("all of %d tags are older than newer_than", p.matched)
	}
	return fmt.Sprintf("FILTER, or the tags of the entry, match none of %d tags", p.listed)
}

// picked returns the candidates to mirror that it has not returned before.
func (p *pick) picked() []listing.Tag {
	chosen := p.candidates
	if p.limit > 0 {
		chosen = p.newest()
	}
	var tags []listing.Tag
	for _, c := range chosen {
		if !p.chosen[c.Tag] {
			if p.limit > 0 {
				p.chosen[c.Tag] = true
			}
			tags = append(tags, p.tags[c.Tag])
		}
	}
	return tags
}

// companionsOf returns the companions of the images.
func (p *pick) companionsOf(images []message.Image) []listing.Tag {
	var tags []listing.Tag
	for _, i := range images {
		tags = append(tags, p.companions[i.Digest]...)
		delete(p.companions, i.Digest) // two tags may share a digest
	}
	return tags
}

// maxShown is how many bytes of names an error shows. Error lines have at most 1 KiB.
const maxShown = 512

// invalid are names in a listing of tags that no tag can have.
type invalid struct {
	seen  map[[sha256.Size]byte]bool // by hash, because a name can have any length
	shown []string                   // the first names, quoted
	bytes int                        // length of shown
}

// refuse notes an invalid name if the selection matches it.
func (p *pick) refuse(name string) {
	sum := sha256.Sum256([]byte(name))
	if p.invalid.seen[sum] || !p.matcher.Match(name) {
		return
	}
	if p.invalid.seen == nil {
		p.invalid.seen = map[[sha256.Size]byte]bool{}
	}
	p.invalid.seen[sum] = true
	if quoted := reference.Quote(name); len(p.invalid.shown) == 0 || p.invalid.bytes+len(quoted) <= maxShown {
		p.invalid.shown = append(p.invalid.shown, quoted)
		p.invalid.bytes += len(quoted)
	}
}

// about returns the error for a repository that lists invalid names, and otherwise nil.
func (i invalid) about(repository reference.Repository) error {
	if len(i.seen) == 0 {
		return nil
	}
	names := strings.Join(i.shown, ", ")
	if more := len(i.seen) - len(i.shown); more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return &registry.Error{Op: registry.OpTags, Repository: repository,
		Err: fmt.Errorf("%w: %s; %s", reference.ErrInvalidTag, names, reference.ExpectedTag)}
}
