package prune

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/holding"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registry"
)

// ErrUndeleted is returned if some tags or manifests of a plan could not be deleted.
var ErrUndeleted = exit.Failed.New("not everything could be deleted")

// Outcome counts the tags of a plan by what has become of them.
type Outcome struct {
	Deleted   int `json:"deleted"`
	Gone      int `json:"gone"` // before the execution
	Skipped   int `json:"skipped"`
	Failed    int `json:"failed"`    // including tags that were not tried after a failure
	Manifests int `json:"manifests"` // deleted manifests without a tag
}

func (o *Outcome) add(other Outcome) {
	o.Deleted += other.Deleted
	o.Gone += other.Gone
	o.Skipped += other.Skipped
	o.Failed += other.Failed
	o.Manifests += other.Manifests
}

// Execution carries out a plan. It surveys each repository again, and deletes only tags that a
// plan of today would delete with the same digest.
type Execution struct {
	Survey
	// Forget removes the records of tags that are not at the destination any more.
	Forget func(ctx context.Context, destination reference.Repository, tags map[reference.Tag]reference.Digest) error
	// Log gets a line for each tag that was deleted, or skipped with the reason.
	Log *slog.Logger
	// Busy returns an error if a run to the destination is under way: its workers may be about
	// to tag a manifest that they have found there.
	Busy func(context.Context) error

	lease *Lease
}

// prune carries out a repository's part of a plan. An error means that the repository is not
// finished. It wraps registry.ErrUndeletable if the registry deletes no manifests at all.
func (x *Execution) prune(ctx context.Context, r Repository) (Outcome, error) {
	var done Outcome
	skip := func(tag reference.Tag, why string) {
		done.Skipped++
		x.Log.Warn("not pruned", "image", r.Repository.String()+":"+tag.String(), "reason", why)
	}
	dropped, err := x.still(ctx, r, skip)
	if err != nil {
		return done, err
	}
	recorded, earlier := x.recorded(r.Repository)
	for _, t := range r.Tags {
		recorded, earlier = append(recorded, t.Tag), append(earlier, t.Digest)
	}
	leaving := func(tag reference.Tag) bool {
		return slices.ContainsFunc(r.Tags, func(t Tag) bool { return t.Tag == tag && (!t.Of.IsZero() || dropped[tag]) })
	}
	c, err := read(ctx, x.Registry, r.Repository, recorded, earlier, leaving)
	if err != nil {
		return done, fmt.Errorf("the destination could not be read: %w", err)
	}
	kept, err := x.keeping(r.Repository)
	if err != nil {
		return done, err
	}
	d := deleting{
		Execution: x, at: r, contents: c, going: map[reference.Tag]bool{}, skip: skip, done: &done,
		forget: map[reference.Tag]reference.Digest{}, deleted: map[reference.Digest]bool{},
	}
	if err := d.choose(ctx, dropped, kept); err != nil {
		return done, err
	}
	// Manifests of tags that stay must stay, even if the tags have moved.
	d.earlier = slices.DeleteFunc(earlier, func(digest reference.Digest) bool {
		return slices.ContainsFunc(r.Tags, func(t Tag) bool { return d.going[t.Tag] && !t.Alone && t.Digest == digest })
	})
	d.needed = c.settle(d.going, d.earlier, x.Hosts.Alone(r.Repository), skip)
	if d.at.Manifests, err = c.untagged(ctx, r.Manifests, d.going, d.needed, done.Skipped > 0 || done.Gone == 0); err != nil {
		return done, fmt.Errorf("the destination could not be read: %w", err)
	}
	err = cmp.Or(d.delete(ctx), d.doubt(ctx))
	if forgot := x.Forget(context.WithoutCancel(ctx), r.Repository, d.forget); err == nil {
		err = forgot
	}
	return done, err
}

// still returns the images of a plan that a plan of today would delete, too. It calls skip with
// the others and the reason.
func (x *Execution) still(ctx context.Context, r Repository, skip func(reference.Tag, string)) (map[reference.Tag]bool, error) {
	dropped := map[reference.Tag]bool{}
	if !Below(r.Repository, x.Destination) {
		return nil, fmt.Errorf("%w: %s is not below MIRROR_DEST_URL", ErrPlan, r.Repository)
	}
	wanted, err := x.wanted(ctx, r.Repository)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(x.Holdings, func(h holding.Repository) bool { return x.isOurs(h) && h.Destination == r.Repository })
	for _, t := range r.Tags {
		if !t.Of.IsZero() {
			continue
		}
		var known holding.Tag
		recorded := false
		if i >= 0 {
			known, recorded = x.Holdings[i].Find(t.Tag)
		}
		why := ""
		switch {
		case !recorded: // it is gone, or this mirror name never mirrored it
			_, err := x.Registry.Find(ctx, r.Repository, t.Tag)
			if err != nil && !errors.Is(err, registry.ErrNotFound) {
				return nil, err
			}
			if err == nil {
				why = "it is not recorded as mirrored"
			}
		case !x.isDropped(known):
			why = "the source or the list has had it within the grace period"
		case known.Digest != t.Digest:
			why = "another digest of it was mirrored"
		default:
			why = x.spared(r.Repository, known, wanted)
		}
		if why != "" {
			skip(t.Tag, why)
			continue
		}
		dropped[t.Tag] = true
	}
	return dropped, nil
}

// errAgain is returned for a tag that has a manifest now, but had none when it was read.
var errAgain = errors.New("the registry has a manifest of the tag again")

// untag removes a tag without a manifest, which distribution leaves after an interrupted deletion.
// It reports whether the tag is gone. If the registry refuses, the record of the tag stays: the
// next plan then expects that the tag cannot be read.
func (x *Execution) untag(ctx context.Context, repository reference.Repository, tag reference.Tag) (gone bool, err error) {
	err = x.lease.during(ctx, func() error { return x.Registry.DeleteTag(ctx, repository, tag) })
	switch {
	case err == nil, errors.Is(err, registry.ErrNotFound):
		return true, nil
	case errors.Is(err, ErrTaken), away(err) != "":
		return false, err
	}
	x.Log.Warn("a tag without a manifest stays", "image", repository.String()+":"+tag.String(), "error", err)
	return false, nil
}
