package prune

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/deletion"
	"github.com/osism/skopeo-worker/worker/registry"
)

// deleting is the deletion of a repository's part of a plan.
type deleting struct {
	*Execution
	*contents
	at      Repository             // of the plan
	going   map[reference.Tag]bool // tags to delete
	earlier []reference.Digest
	needed  map[reference.Digest]bool // manifests that must stay
	skip    func(reference.Tag, string)
	done    *Outcome
	forget  map[reference.Tag]reference.Digest // tags whose records are to be removed
	deleted map[reference.Digest]bool
}

// choose finds the tags that go, and notes those that are gone already.
func (d *deleting) choose(ctx context.Context, dropped map[reference.Tag]bool, kept keeping) error {
	for _, t := range d.at.Tags {
		if t.Of.IsZero() && !dropped[t.Tag] {
			continue
		}
		if !d.at.accompanies(t) {
			d.skip(t.Tag, "the plan does not delete the image that it belongs to")
			continue
		}
		switch at, there := d.tags[t.Tag]; {
		case !there:
			if err := d.isGone(ctx, t); err != nil {
				return err
			}
		case kept.why(t.Tag) != "":
			d.skip(t.Tag, kept.why(t.Tag))
		case at != t.Digest:
			d.skip(t.Tag, fmt.Sprintf("it has moved to %s", at))
		default:
			d.going[t.Tag] = true
		}
	}
	return nil
}

// isGone notes a tag that is gone already. If the registry lists the tag, isGone looks it up again
// to be sure, and removes it from the listing.
func (d *deleting) isGone(ctx context.Context, t Tag) error {
	forget := true
	if d.empty[t.Tag] {
		_, err := d.Registry.Find(ctx, d.at.Repository, t.Tag)
		if !errors.Is(err, registry.ErrNotFound) {
			return fmt.Errorf("%s:%s: %w", d.at.Repository, t.Tag, cmp.Or(err, errAgain))
		}
		if forget, err = d.untag(ctx, d.at.Repository, t.Tag); err != nil {
			return err
		}
	}
	d.noteGone(t)
	if forget {
		d.forget[t.Tag] = t.Digest
	}
	return nil
}

func (d *deleting) noteGone(t Tag) {
	d.done.Gone++
	d.Log.Info("already gone", "image", d.name(t), "digest", t.Digest.String())
}

func (d *deleting) name(t Tag) string { return d.at.Repository.String() + ":" + t.Tag.String() }

// delete deletes the tags that go, and then manifests without a tag. It deletes an index before
// the manifests below it, because registries refuse to delete manifests that an index needs.
func (d *deleting) delete(ctx context.Context) error {
	with := deletion.Deleter{Registry: d.Registry, Hosts: d.Hosts, During: d.lease.during}
	for _, t := range d.outermost(d.at.Tags) {
		if !d.going[t.Tag] {
			continue
		}
		if !t.Of.IsZero() && d.needed[t.Of] {
			d.stays(t, "the image that it belongs to stays")
			continue
		}
		gone, err := d.tag(ctx, with, t)
		if errors.Is(err, registry.ErrReferenced) || errors.Is(err, deletion.ErrTogether) {
			d.stays(t, err.Error())
			continue
		}
		if errors.Is(err, errMoved) { // its new manifest may need some that were to go
			d.skip(t.Tag, err.Error())
		}
		if err != nil {
			return fmt.Errorf("%s: %w", d.name(t), err)
		}
		d.forget[t.Tag] = t.Digest
		if gone {
			d.noteGone(t)
			continue
		}
		d.done.Deleted++
		d.deleted[t.Digest] = true
		d.Log.Info("pruned", "image", d.name(t), "digest", t.Digest.String(), "reason", t.Why, "since", t.Since)
	}
	for _, digest := range slices.SortedFunc(slices.Values(d.at.Manifests), d.outer) {
		if d.needed[digest] {
			continue
		}
		err := with.Manifest(ctx, d.at.Repository, reference.Tag{}, digest)
		switch {
		case errors.Is(err, registry.ErrNotFound): // the registry deleted it with its image
		case errors.Is(err, registry.ErrReferenced), errors.Is(err, registry.ErrTagged):
			d.Log.Warn("not pruned", "image", d.at.Repository.String()+"@"+digest.String(), "reason", err)
		case err != nil:
			return err
		default:
			d.done.Manifests++
			d.Log.Info("pruned a manifest without a tag", "image", d.at.Repository.String()+"@"+digest.String())
		}
	}
	return nil
}

// stays leaves a tag at the destination, with its manifests and companions.
func (d *deleting) stays(t Tag, why string) {
	d.skip(t.Tag, why)
	delete(d.going, t.Tag)
	d.needed = d.contents.needed(d.going, d.earlier)
}

// errMoved is returned for a tag that has another digest than in the plan.
var errMoved = errors.New("it has moved meanwhile")

// tag deletes a tag. It deletes the tag alone if the plan demands it or the digest must stay, and
// otherwise with the digest and all other tags of that, which go as well. gone reports whether
// another client has deleted the tag.
func (d *deleting) tag(ctx context.Context, with deletion.Deleter, t Tag) (gone bool, err error) {
	at, err := d.Registry.Find(ctx, d.at.Repository, t.Tag)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return !d.deleted[t.Digest], nil // it may be gone with another tag of the digest
	case err != nil:
		return false, err
	case at.Digest != t.Digest:
		return false, errMoved
	}
	if t.Alone || d.needed[t.Digest] {
		err = with.Tag(ctx, d.at.Repository, t.Tag, t.Digest)
		if errors.Is(err, registry.ErrUndeletable) {
			err = fmt.Errorf("%w: %w", deletion.ErrTogether, err)
		}
	} else {
		err = with.Manifest(ctx, d.at.Repository, t.Tag, t.Digest)
	}
	if errors.Is(err, registry.ErrNotFound) {
		return true, nil
	}
	return false, err
}

// doubt looks up one tag that stays, if the registry has denied others. If it denies this tag,
// too, it may have lost its storage, or another registry may answer: the missing tags count as
// failed, and no record is removed. If it does not answer, the records of tags that this
// execution has not deleted stay.
func (d *deleting) doubt(ctx context.Context) error {
	ended := d.done.Gone + d.done.Deleted
	for tag := range d.tags {
		if d.going[tag] || ended == 0 {
			continue
		}
		_, err := d.Registry.Find(ctx, d.at.Repository, tag)
		switch {
		case errors.Is(err, registry.ErrNotFound):
			err = fmt.Errorf("the registry denies a tag that must stay, so its other answers are not trusted: %w", err)
			d.done.Failed, d.done.Gone, d.done.Deleted = d.done.Failed+ended, 0, 0
			clear(d.forget)
		case err != nil:
			maps.DeleteFunc(d.forget, func(_ reference.Tag, digest reference.Digest) bool { return !d.deleted[digest] })
		}
		return err
	}
	return nil
}

// outermost sorts tags so that an index precedes the manifests below it, and an image its
// companions.
func (d *deleting) outermost(tags []Tag) []Tag {
	return slices.SortedStableFunc(slices.Values(tags), func(a, b Tag) int {
		switch {
		case a.Of.IsZero() == b.Of.IsZero():
			return d.outer(a.Digest, b.Digest)
		case a.Of.IsZero():
			return -1
		}
		return 1
	})
}

// outer compares manifests by the number of levels below them, most levels first.
func (d *deleting) outer(a, b reference.Digest) int { return d.levels(b) - d.levels(a) }
