package check

import (
	"context"
	"errors"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
	"github.com/osism/skopeo-worker/worker/resolve"
)

// lists are the companions of sources whose entries name their tags; nil where a source
// does not list them.
type lists map[reference.Repository]resolve.Companions

// companions returns the signatures, SBOMs and attestations that have tags of their own and
// come with the images of the jobs: those below an image are known as soon as it is at the
// destination.
func (t *task) companions(ctx context.Context, row *Row, jobs []*job, listed lists) []*image {
	var all []*image
	for _, j := range jobs {
		if j.err != nil || j.verdict == skipping || !resolve.BringsCompanions(j.image.entry) {
			continue
		}
		tags, err := t.companionsOf(ctx, row, j, listed)
		if err != nil {
			row.Failed = append(row.Failed, failed(j.image.source, err))
			continue
		}
		if len(tags) == 0 {
			continue
		}
		chosen := j.image.entry.Selection.Contents()
		chosen.List = tags
		found := t.resolve(ctx, message.Repository{Source: row.Repository, Destination: row.Destination, Selection: &chosen})
		for _, image := range found.images {
			image.companions = j.image.companions
		}
		all = append(all, found.images...)
		row.Failed = append(row.Failed, found.failed...)
	}
	return all
}

// companionsOf finds the tags of the companions of a job.
func (t *task) companionsOf(ctx context.Context, row *Row, j *job, listed lists) ([]string, error) {
	companions, err := t.listCompanions(ctx, j.image, listed)
	if err != nil || companions != nil && len(companions) == 0 {
		return nil, err
	}
	var digests []reference.Digest
	if r := j.image.entry; !r.Tag.IsZero() || !r.Digest.IsZero() || len(r.Selection.List) > 0 { // else resolving has found its own
		digests = append(digests, j.image.digest)
	}
	switch {
	case isImage(j.image.mediaType):
	case j.at.IsZero():
		row.PullsAtLeast, row.BytesAtLeast = true, true
	default:
		var below []reference.Digest
		err := t.insist(ctx, row.Destination, t.slot(func() (err error) {
			below, err = t.Mirror.Below(ctx, row.Destination, j.at)
			return err
		}))
		if err != nil {
			return nil, err
		}
		digests = append(digests, below...)
	}
	var tags []string
	for _, digest := range digests {
		for _, tag := range companions[digest] {
			tags = append(tags, tag.Name.String())
		}
		if companions == nil {
			possible, err := t.possible(ctx, row, digest)
			if err != nil {
				return nil, err
			}
			tags = append(tags, possible...)
		}
	}
	return tags, nil
}

// listCompanions returns the companions that the source has, listed once; nil where it
// does not list its tags.
func (t *task) listCompanions(ctx context.Context, i *image, listed lists) (found resolve.Companions, err error) {
	source := i.entry.Source
	if i.companions != nil {
		return i.companions, nil
	}
	if found, known := listed[source]; known {
		return found, nil
	}
	err = t.insist(ctx, source, func() (err error) {
		found, err = resolve.ListCompanions(ctx, t.Source, source)
		return err
	})
	if err != nil && outcome.Classify(err) == outcome.Final {
		found, err = nil, nil
	}
	if err == nil {
		listed[source] = found
	}
	return found, err
}

// possible looks the companions of a manifest up by name.
func (t *task) possible(ctx context.Context, row *Row, digest reference.Digest) (tags []string, err error) {
	for _, tag := range resolve.PossibleCompanions(digest) {
		err := t.insist(ctx, row.Repository, func() error {
			_, err := t.Source.Head(ctx, row.Repository, tag)
			return err
		})
		switch {
		case err == nil, errors.Is(err, ErrPull): // a listing of the name decides
			tags = append(tags, tag.String())
		case !errors.Is(err, registry.ErrNotFound):
			return nil, err
		}
	}
	return tags, nil
}
