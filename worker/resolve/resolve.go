// Package resolve turns an entry of the list into the tags and digests that it has today.
package resolve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Result is the outcome of resolving an entry.
type Result struct {
	Images []message.Image
	Missed []Missed // tags whose digest is still to be found out
	// Vanished are the tags that the registry has listed and then denied, to GET too.
	Vanished []reference.Tag
	// Invalid is about names that the registry lists and no tag can have; nil if there
	// are none. It is an *registry.Error about the repository, and quotes them.
	Invalid error
	Skipped []reference.Tag // for Windows only
	// Unselected is a line for the user if no listed tag is selected: the registry lists none, or
	// the selection matches none. Otherwise it is "".
	Unselected string
	Pulls      int // manifests that had to be pulled to learn their digest
	// Whole says that the repository was listed to the end, and Count how many tags it has,
	// companions left out.
	Whole bool
	Count int
	// All are the tags that the registry lists, wanted or not; nil if the repository was not
	// listed to the end. They have no order.
	All []reference.Tag
	// Listed is the listing's data of tags besides their digests, by tag.
	Listed map[reference.Tag]Listed
	// Companions were listed, and belong to none of the images; nil if nothing was
	// listed. They may belong to a manifest below one.
	Companions Companions
	// Selected are the listed tags that are selected, also if they were missed or skipped; nil if
	// nothing was listed.
	Selected []reference.Tag
}

// Listed is a listing's data of a tag. It is zero if the listing has none.
type Listed struct {
	Digest    reference.Digest // that the rest is about
	Updated   time.Time        // since when the tag has it
	Size      int64
	Platforms []listing.Platform
}

// Missed is a tag that was listed and could not be looked up. Err is of the package
// registry.
type Missed struct {
	Tag reference.Tag
	Err error
}

// AllDenied returns the failure of a repository whose tags were listed and then all
// denied. It is a *registry.Error that wraps registry.ErrNotFound.
func AllDenied(repository reference.Repository, tags int) error {
	return &registry.Error{Op: registry.OpTags, Repository: repository, Err: fmt.Errorf(
		"%w: the registry lists tags, and denies all %d that were asked for", registry.ErrNotFound, tags)}
}

// Known is the known state of the tags of a repository before they are listed.
type Known struct {
	// Digests need not be asked for.
	Digests map[reference.Tag]reference.Digest
	// Sighted are since when tags have their digests, as far as workers have seen it.
	Sighted map[reference.Tag]Sighting
}

// Sighting is the digest that a tag of a source has had since a time.
type Sighting struct {
	Digest reference.Digest `json:"d"`
	Since  time.Time        `json:"t"`
	// ByListing says that the listing of the source has said so just now.
	ByListing bool `json:"-"`
}

// ErrFewTags is returned for a repository that has fewer tags than it should.
var ErrFewTags = errors.New("too few tags")

// Resolver resolves entries. The pulls in the result are right even if there is an error.
type Resolver interface {
	Resolve(ctx context.Context, r message.Repository, known Known) (Result, error)
}

// Upstream resolves with the APIs that the upstream offers: its own listing with digests, or
// tags/list, and HEAD for digests that a listing does not have.
type Upstream struct {
	Registry *registry.Client
	Listing  *listing.Listers
}

// Resolve implements Resolver. An entry with a digest takes no request. A tag takes one HEAD, and a
// GET if that denies it.
func (u *Upstream) Resolve(ctx context.Context, r message.Repository, known Known) (Result, error) {
	switch {
	case !r.Digest.IsZero():
		return Result{Images: []message.Image{{Tag: r.Tag, Digest: r.Digest}}}, nil
	case !known.Digests[r.Tag].IsZero():
		return Result{Images: []message.Image{{Tag: r.Tag, Digest: known.Digests[r.Tag]}}}, nil
	case !r.Tag.IsZero():
		d, err := u.Registry.Find(ctx, r.Source, r.Tag)
		if err != nil {
			return Result{Pulls: pulls(d)}, err
		}
		return u.standing(ctx, r, known, Result{Images: []message.Image{image(r.Tag, d)}, Pulls: pulls(d)})
	case r.Selection != nil && len(r.Selection.List) > 0:
		// Named one by one, and so missed one by one.
		tags := make([]listing.Tag, len(r.Selection.List))
		for i, tag := range r.Selection.List {
			var err error
			if tags[i].Name, err = reference.ParseTag(tag); err != nil {
				return Result{}, &registry.Error{Op: registry.OpHead, Repository: r.Source, Err: err}
			}
		}
		result, _ := u.digests(ctx, r.Source, tags, known, true)
		if ctx.Err() != nil {
			return result, ctx.Err()
		}
		return u.standing(ctx, r, known, result)
	}
	return u.whole(ctx, r, known)
}

// bulkTries is how often a listing of the upstream's own is tried that is in trouble,
// before that of the OCI API is: the API with digests may be away while the rest is not.
const bulkTries = 2

// list lists the repository and picks the selected tags. whole is false if the listing
// ended early, because the newest tags were enough.
func (u *Upstream) list(ctx context.Context, r message.Repository, known Known) (p *pick, whole bool, err error) {
	if p, err = newPick(r.Selection, known.Sighted); err != nil {
		return nil, false, err
	}
	lister := u.Listing.For(r.Source)
	if r.Attempts >= bulkTries && p.newerThan.IsZero() { // without times, old tags would count as new
		lister = u.Listing.OCI()
	}
	for tag, err := range lister.Tags(ctx, r.Source) {
		if invalid := (*registry.TagError)(nil); errors.As(err, &invalid) {
			p.refuse(invalid.Name)
			continue
		}
		if err != nil {
			return nil, false, err
		}
		p.add(tag)
		if lister.NewestFirst() && p.full() {
			return p, false, nil
		}
	}
	return p, true, nil
}

// Select lists the repository of an open entry. Of the result, it sets Selected, Whole and Count
// only: unlike Resolve, it looks up no tag. Names that no tag can have, and fewer tags than
// min_tags, are an error. If it is not known which tags are old enough, a limit does not apply.
func (u *Upstream) Select(ctx context.Context, r message.Repository) (Result, error) {
	p, whole, err := u.list(ctx, r, Known{})
	if err == nil {
		err = cmp.Or(p.invalid.about(r.Source), p.few(r.Source))
	}
	if err != nil {
		return Result{}, err
	}
	if p.minAge > 0 && p.timeless { // any of them may be old enough to be in the limit
		p.limit = 0
	}
	p.picked()
	return Result{Selected: p.selected(), Whole: whole, Count: p.count}, nil
}

// whole lists the repository, picks the selected tags, and looks up their digests.
func (u *Upstream) whole(ctx context.Context, r message.Repository, known Known) (Result, error) {
	p, whole, err := u.list(ctx, r, known)
	if err != nil {
		return Result{}, err
	}
	renewed := u.renew(ctx, r.Source, p, known)
	result, err := u.picked(ctx, r.Source, p, known)
	result.Pulls += renewed
	if err != nil {
		return Result{Pulls: result.Pulls}, err
	}
	result.Skipped = p.windows
	result.Unselected = p.unselected()
	if result.Invalid = p.invalid.about(r.Source); result.Invalid == nil {
		result.Invalid = p.few(r.Source)
	}
	companions, _ := u.digests(ctx, r.Source, p.companionsOf(result.Images), Known{}, false)
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	result.join(companions)
	result.Companions = p.companions
	result.Selected = p.selected()
	result.Whole, result.Count = whole, p.count
	if whole {
		result.All = p.all()
	}
	return result, nil
}

// pick chooses tags from a listing.
type pick struct {
	matcher    *selection.Matcher
	everything bool
	limit      int
	atLeast    int       // tags that match
	newerThan  time.Time // zero: of any age
	minAge     time.Duration
	aged       int // candidates that are old enough
	sighted    map[reference.Tag]Sighting
	now        time.Time

	tags       map[reference.Tag]listing.Tag // of the candidates
	others     []reference.Tag
	candidates []selection.Candidate
	chosen     map[reference.Tag]bool // candidates; not kept without a limit, which chooses all
	moved      map[reference.Tag]bool // candidates that have another digest than they were seen with
	timeless   bool                   // a candidate came without a time
	stale      []listing.Tag          // that were seen for too long, unless they have moved meanwhile
	companions Companions
	windows    []reference.Tag
	listed     int  // tags, without companions
	count      int  // tags, without any companions
	matched    int  // of those, by the selection apart from age and limit
	old        bool // one of those was too old, in a listing with times
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

// selected returns the tags that were picked, and those for Windows only.
func (p *pick) selected() []reference.Tag {
	tags := slices.Clone(p.windows)
	for _, c := range p.candidates {
		if p.limit == 0 || p.chosen[c.Tag] {
			tags = append(tags, c.Tag)
		}
	}
	return tags
}

// full reports whether a listing that is ordered by time cannot add anything. The
// signature of an image is newer than the image, and has been listed before it.
func (p *pick) full() bool {
	return (p.limit > 0 && p.aged >= p.limit || p.old) && !p.timeless && p.matched >= p.atLeast
}

// unselected returns why nothing was picked, or "". It is a typing error more often than not.
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

// picked returns the candidates that are mirrored, without those that it has returned before.
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

// companionsOf returns the tags that belong to the images.
func (p *pick) companionsOf(images []message.Image) []listing.Tag {
	var tags []listing.Tag
	for _, i := range images {
		tags = append(tags, p.companions[i.Digest]...)
		delete(p.companions, i.Digest) // two tags may share a digest
	}
	return tags
}

func image(tag reference.Tag, d registry.Descriptor) message.Image {
	return message.Image{Tag: tag, Digest: d.Digest, MediaType: d.MediaType}
}

func pulls(d registry.Descriptor) int {
	if d.Pulled {
		return 1
	}
	return 0
}
