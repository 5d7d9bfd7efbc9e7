// Package waiting finds tags that wait for their minimum age, and the digests that users release early.
package waiting

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/osism/skopeo-worker/shared/catalog"
	"github.com/osism/skopeo-worker/shared/exit"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/release"
	"github.com/osism/skopeo-worker/shared/run"
)

// ErrNot is returned for an image that does not wait.
var ErrNot = exit.Usage.New("the image does not wait")

// Tag is a tag that waits for its minimum age.
type Tag struct {
	Repository reference.Repository `json:"repository"`
	Tag        reference.Tag        `json:"tag"`
	Digest     reference.Digest     `json:"digest"`      // at the source
	At         reference.Digest     `json:"at,omitzero"` // at the destination
	Until      time.Time            `json:"until"`
}

// List returns the waiting tags of a mirror name, sorted by name, as runs have last seen them.
func List(ctx context.Context, store *catalog.Store, mirror string) ([]Tag, error) {
	repositories, err := store.List(ctx, mirror)
	if err != nil {
		return nil, err
	}
	var all []Tag
	for _, r := range repositories {
		for _, t := range r.Tags {
			if w, ok := Of(r.Source, t); ok {
				all = append(all, w)
			}
		}
	}
	return all, nil
}

// Of returns the waiting tag of a record. It reports false if the tag does not wait.
func Of(source reference.Repository, t catalog.Tag) (Tag, bool) {
	return Tag{Repository: source, Tag: t.Name, Digest: t.Source, At: t.At, Until: t.Until}, t.State == run.Waiting
}

// Image returns the reference of the image at the source, by tag.
func (t Tag) Image() string {
	return reference.Reference{Repository: t.Repository, Tag: t.Tag}.String()
}

// Release returns a release of the digest of the tag.
func (t Tag) Release(by string, at time.Time) release.Release {
	return release.Release{Repository: t.Repository, Digest: t.Digest, Tag: t.Tag, By: by, At: at.UTC()}
}

// In returns the release of the digest of the tag. It reports false if there is none.
func (t Tag) In(releases []release.Release) (release.Release, bool) {
	i := slices.IndexFunc(releases, func(r release.Release) bool { return r.Repository == t.Repository && r.Digest == t.Digest })
	if i < 0 {
		return release.Release{}, false
	}
	return releases[i], true
}

// Meant returns the tags to release for a reference. A repository stands for all of its waiting tags. A
// digest need not wait. If no tag waits, the error is ErrNot.
func Meant(r reference.Reference, all []Tag) ([]Tag, error) {
	if !r.Digest.IsZero() {
		return []Tag{{Repository: r.Repository, Tag: r.Tag, Digest: r.Digest}}, nil
	}
	var meant []Tag
	for _, t := range all {
		if t.Repository == r.Repository && (r.Tag.IsZero() || t.Tag == r.Tag) {
			meant = append(meant, t)
		}
	}
	if len(meant) == 0 {
		return nil, fmt.Errorf("%w: no run has left %s waiting", ErrNot, r)
	}
	return meant, nil
}

// Confirmed returns the current state of a tag whose release a user has confirmed. It returns ErrNot if
// the tag no longer waits with the digest that the user has seen, or if that digest was released.
func Confirmed(seen Tag, all []Tag, releases []release.Release) (Tag, error) {
	meant, err := Meant(reference.Reference{Repository: seen.Repository, Tag: seen.Tag}, all)
	if err != nil {
		return Tag{}, err
	}
	t := meant[0]
	if t.Digest != seen.Digest {
		return Tag{}, fmt.Errorf("%w: %s has moved since you looked: it waits with digest %s, not %s", ErrNot, t.Image(), t.Digest, seen.Digest)
	}
	if r, ok := t.In(releases); ok {
		return Tag{}, fmt.Errorf("%w: %s has released %s; the next run mirrors it", ErrNot, r.By, r.Image())
	}
	return t, nil
}

// Released returns the message about a stored release.
func Released(r release.Release) string {
	return fmt.Sprintf("Released %s: the next run mirrors it.", r.Image())
}

// report is the JSON output of planner release and of the API.
type report struct {
	Waiting  []Tag             `json:"waiting"`
	Releases []release.Release `json:"releases"`
}

// NewReport returns the JSON output of planner release and of the API. Its lists are never null.
func NewReport(tags []Tag, releases []release.Release) any {
	return report{append([]Tag{}, tags...), append([]release.Release{}, releases...)}
}
