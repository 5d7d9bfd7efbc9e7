// Package waiting finds the tags that wait for their minimum age, and what to release of them.
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

// Tag is a tag that is not old enough to be mirrored.
type Tag struct {
	Repository reference.Repository `json:"repository"`
	Tag        reference.Tag        `json:"tag"`
	Digest     reference.Digest     `json:"digest"`      // at the source
	At         reference.Digest     `json:"at,omitzero"` // at the destination
	Until      time.Time            `json:"until"`
}

// List returns the tags that runs of a mirror name have left waiting, sorted by name.
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

// Of returns what a record of a tag says of its waiting. It reports false if the tag does not wait.
func Of(source reference.Repository, t catalog.Tag) (Tag, bool) {
	return Tag{Repository: source, Tag: t.Name, Digest: t.Source, At: t.At, Until: t.Until}, t.State == run.Waiting
}

// Image is the image at the source, by its tag.
func (t Tag) Image() string {
	return reference.Reference{Repository: t.Repository, Tag: t.Tag}.String()
}

// Release is the release of the digest of the tag.
func (t Tag) Release(by string, at time.Time) release.Release {
	return release.Release{Repository: t.Repository, Digest: t.Digest, Tag: t.Tag, By: by, At: at.UTC()}
}

// In returns the release of the digest of the tag among some.
func (t Tag) In(releases []release.Release) (release.Release, bool) {
	i := slices.IndexFunc(releases, func(r release.Release) bool { return r.Repository == t.Repository && r.Digest == t.Digest })
	if i < 0 {
		return release.Release{}, false
	}
	return releases[i], true
}

// Meant returns what is to be released if a user names a digest, a tag that waits, or a
// repository, which stands for all of its tags that wait. It returns ErrNot if nothing waits.
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

// Confirmed returns the tag that a user has seen waiting with a digest, and confirmed. It returns
// ErrNot unless it still waits with that digest, and has not been released.
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

// Released is the sentence about a release that was stored.
func Released(r release.Release) string {
	return fmt.Sprintf("Released %s: the next run mirrors it.", r.Image())
}

// Report is what commands and the API write as JSON.
type Report struct {
	Waiting  []Tag             `json:"waiting"`
	Releases []release.Release `json:"releases"`
}

// NewReport returns a report whose lists are never null.
func NewReport(tags []Tag, releases []release.Release) Report {
	return Report{append([]Tag{}, tags...), append([]release.Release{}, releases...)}
}
