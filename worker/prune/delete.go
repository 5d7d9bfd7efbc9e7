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

// deleting is the deletion of what a plan has of a repository.
type deleting struct {
	*Execution
	*contents
	at      Repository // of the plan
	going   map[reference.Tag]bool
	earlier []reference.Digest
	needed  map[reference.Digest]bool // by what stays
	skip    func(reference.Tag, string)
	done    *Outcome
	forget  map[reference.Tag]reference.Digest
	deleted map[reference.Digest]bool
}

// choose finds the tags that go, and those that are gone.
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

// isGone notes a tag that is gone. A registry may deny a tag once that it lists.
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
	d.done.Gone++
	d.Log.Info("gone before", "image", d.at.Repository.String()+":"+t.Tag.String(), "digest", t.Digest.String())
	if forget {
		d.forget[t.Tag] = t.Digest
	}
	return nil
}

// delete deletes the tags that go, and then the manifests that have none. What is around a
// manifest goes before it: registries refuse to delete what an index needs.
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
		if why := d.spares(err); why != "" {
			d.stays(t, why)
			continue
		}
		if errors.Is(err, errMoved) { // what it has now may need what was to go
			d.skip(t.Tag, err.Error())
			return fmt.Errorf("%s:%s: %w", d.at.Repository, t.Tag, err)
		}
		if err != nil {
			return fmt.Errorf("%s:%s: %w", d.at.Repository, t.Tag, err)
		}
		d.forget[t.Tag] = t.Digest
		if gone {
			d.done.Gone++
			d.Log.Info("gone before", "image", d.at.Repository.String()+":"+t.Tag.String(), "digest", t.Digest.String())
			continue
		}
		d.done.Deleted++
		d.deleted[t.Digest] = true
		d.Log.Info("pruned", "image", d.at.Repository.String()+":"+t.Tag.String(), "digest", t.Digest.String(), "reason", t.Why, "since", t.Since)
	}
	for _, digest := range slices.SortedFunc(slices.Values(d.at.Manifests), d.outer) {
		if d.needed[digest] {
			continue
		}
		err := with.Manifest(ctx, d.at.Repository, reference.Tag{}, digest)
		switch {
		case errors.Is(err, registry.ErrNotFound): // the registry has deleted it with its image
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

// stays leaves a tag at the destination, with all that it needs and what belongs to it.
func (d *deleting) stays(t Tag, why string) {
	d.skip(t.Tag, why)
	delete(d.going, t.Tag)
	d.needed = d.contents.needed(d.going, d.earlier)
}

// errMoved is the reason for a tag that has another digest than in the plan.
var errMoved = errors.New("it has moved meanwhile")

// spares returns why a tag stays because of an error, or "" if that is a failure.
func (d *deleting) spares(err error) string {
	for _, reason := range []error{registry.ErrReferenced, deletion.ErrTogether} {
		if errors.Is(err, reason) {
			return err.Error()
		}
	}
	return ""
}

// tag deletes a tag: alone if the plan says so or something that stays needs its digest, and
// otherwise with the digest, all of whose tags go. It reports whether somebody else has.
func (d *deleting) tag(ctx context.Context, with deletion.Deleter, t Tag) (gone bool, err error) {
	switch there, err := d.has(ctx, t); {
	case err != nil:
		return false, err
	case !there:
		return !d.deleted[t.Digest], nil // or with another tag of the digest
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

// has reports whether a tag is there with its digest. The error is errMoved if it has another.
func (d *deleting) has(ctx context.Context, t Tag) (bool, error) {
	at, err := d.Registry.Find(ctx, d.at.Repository, t.Tag)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return false, nil
	case err == nil && at.Digest != t.Digest:
		err = errMoved
	}
	return err == nil, err
}

// doubt asks for a tag that stays. If the registry does not have it, it may have lost its
// storage, or another one answers: then what is gone counts as failed, and nothing is forgotten.
// If it does not answer, what it denied before is not forgotten.
func (d *deleting) doubt(ctx context.Context) error {
	ended := d.done.Gone + d.done.Deleted
	for tag := range d.tags {
		if d.going[tag] || ended == 0 {
			continue
		}
		_, err := d.Registry.Find(ctx, d.at.Repository, tag)
		switch {
		case errors.Is(err, registry.ErrNotFound):
			err = fmt.Errorf("what is gone cannot be believed: %w", err)
			d.done.Failed, d.done.Gone, d.done.Deleted = d.done.Failed+ended, 0, 0
			clear(d.forget)
		case err != nil:
			maps.DeleteFunc(d.forget, func(_ reference.Tag, digest reference.Digest) bool { return !d.deleted[digest] })
		}
		return err
	}
	return nil
}

// outermost returns tags in an order in which an index comes before what is below it, and images
// before what belongs to them.
func (d *deleting) outermost(tags []Tag) []Tag {
	return slices.SortedStableFunc(slices.Values(tags), func(a, b Tag) int {
		if a.Of.IsZero() != b.Of.IsZero() {
			if a.Of.IsZero() {
				return -1
			}
			return 1
		}
		return d.outer(a.Digest, b.Digest)
	})
}

// outer compares manifests by the levels below them, the highest first.
func (d *deleting) outer(a, b reference.Digest) int { return d.levels(b) - d.levels(a) }
