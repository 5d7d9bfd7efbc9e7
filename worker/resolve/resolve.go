// Package resolve turns an entry of the list into its current tags and digests.
package resolve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Result is the result of resolving an entry.
type Result struct {
	Images []message.Image
	Missed []Missed
	// Vanished are tags that the registry has listed and then denied, also to GET.
	Vanished []reference.Tag
	// Invalid is a *registry.Error that quotes names in the listing that no tag can have; nil if
	// there are none. It may also wrap ErrFewTags.
	Invalid error
	Skipped []reference.Tag // images for Windows only
	// Unselected is a line for the user if the registry lists no tags, or the selection matches
	// none; otherwise, it is "".
	Unselected string
	Pulls      int // manifests that were pulled for their digest
	// Whole reports whether the repository was listed to the end. Count is the number of listed
	// tags, without companions.
	Whole bool
	Count int
	// All are all tags in the listing, in any order; nil if the repository was not listed to the
	// end.
	All []reference.Tag
	// Listed is the listing's data of tags besides their digests, by tag.
	Listed map[reference.Tag]Listed
	// Companions are listed companions that belong to none of the images. They may belong to
	// manifests below an index. It is nil if the repository was not listed.
	Companions Companions
	// Selected are the selected tags, including those that were missed or skipped; nil if the
	// repository was not listed.
	Selected []reference.Tag
}

// Listed is a listing's data of a tag. It is zero if the listing has none.
type Listed struct {
	Digest    reference.Digest // the digest to which the data belongs
	Updated   time.Time        // since when the tag has the digest
	Size      int64
	Platforms []listing.Platform
}

// Missed is a tag whose look-up has failed. Err is of the package registry.
type Missed struct {
	Tag reference.Tag
	Err error
}

// AllDenied returns the error for a repository that lists tags and denies all of them. It is a
// *registry.Error that wraps registry.ErrNotFound.
func AllDenied(repository reference.Repository, tags int) error {
	return &registry.Error{Op: registry.OpTags, Repository: repository, Err: fmt.Errorf(
		"%w: the registry lists tags, and denies all %d that were asked for", registry.ErrNotFound, tags)}
}

// Known is the knowledge about the tags of a repository before they are listed.
type Known struct {
	// Digests are digests of tags that need not be looked up.
	Digests map[reference.Tag]reference.Digest
	// Sighted holds since when tags have their digests, as far as workers have seen that.
	Sighted map[reference.Tag]Sighting
}

// Sighting is the digest of a tag at a source, and since when the tag has it.
type Sighting struct {
	Digest reference.Digest `json:"d"`
	Since  time.Time        `json:"t"`
	// ByListing reports whether Since comes from the source's listing.
	ByListing bool `json:"-"`
}

// ErrFewTags is returned for a repository that has fewer tags than min_tags, or far fewer than
// before.
var ErrFewTags = errors.New("too few tags")

// Resolver resolves entries. Result.Pulls is valid even after an error.
type Resolver interface {
	Resolve(ctx context.Context, r message.Repository, known Known) (Result, error)
}

// Upstream resolves entries with the API of a registry that lists digests, or with tags/list and a
// HEAD for each tag.
type Upstream struct {
	Registry *registry.Client
	Listing  *listing.Listers
}

// Resolve implements Resolver. An entry with a digest takes no request. An entry with a tag takes a
// HEAD, and a GET if that answers 404.
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

// bulkTries is how often an API that lists digests is tried. Then the OCI API is used, which may
// work while the other API is away.
const bulkTries = 2

// list lists the repository and picks the selected tags. whole is false if it has read only the
// newest tags, because the selection needs no others.
func (u *Upstream) list(ctx context.Context, r message.Repository, known Known) (p *pick, whole bool, err error) {
	if p, err = newPick(r.Selection, known.Sighted); err != nil {
		return nil, false, err
	}
	lister := u.Listing.For(r.Source)
	if r.Attempts >= bulkTries && p.newerThan.IsZero() { // without times, newer_than would match old tags
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

// Select lists the repository of an open entry and looks up no tag. It sets only Selected, Whole and
// Count of the result. Unlike Resolve, it returns an error for names that no tag can have, and for
// fewer tags than min_tags. It ignores a limit if it is unknown which tags are old enough for it.
func (u *Upstream) Select(ctx context.Context, r message.Repository) (Result, error) {
	p, whole, err := u.list(ctx, r, Known{})
	if err == nil {
		err = cmp.Or(p.invalid.about(r.Source), p.few(r.Source))
	}
	if err != nil {
		return Result{}, err
	}
	if p.minAge > 0 && p.timeless { // any tag may be old enough
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

func image(tag reference.Tag, d registry.Descriptor) message.Image {
	return message.Image{Tag: tag, Digest: d.Digest, MediaType: d.MediaType}
}

func pulls(d registry.Descriptor) int {
	if d.Pulled {
		return 1
	}
	return 0
}
