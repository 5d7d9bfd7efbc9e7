package resolve

import (
	"context"
	"errors"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/outcome"
	"github.com/osism/skopeo-worker/worker/registry"
)

// standing adds since when the tags that an entry names have their digests, if the entry has a
// minimum age and the source lists times. The listing is only asked about digests that no
// worker has seen under their tags before. If it fails for good, they are new.
func (u *Upstream) standing(ctx context.Context, r message.Repository, known Known, result Result) (Result, error) {
	lister := u.Listing.For(r.Source)
	if r.Selection == nil || r.Selection.MinAge == 0 || !lister.NewestFirst() {
		return result, nil
	}
	wanted := map[reference.Tag]reference.Digest{}
	for _, i := range result.Images {
		if known.Sighted[i.Tag].Digest != i.Digest {
			wanted[i.Tag] = i.Digest
		}
	}
	if len(wanted) == 0 {
		return result, nil
	}
	for tag, err := range lister.Tags(ctx, r.Source) {
		if errors.As(err, new(*registry.TagError)) {
			continue
		}
		if err != nil {
			return result, u.unlisted(r, err)
		}
		if wanted[tag.Name].IsZero() {
			continue
		}
		result.note(tag.Name, Listed{Digest: tag.Digest, Updated: tag.Updated, Size: tag.Size, Platforms: tag.Platforms})
		if delete(wanted, tag.Name); len(wanted) == 0 {
			break
		}
	}
	return result, nil
}

// unlisted returns the error of a listing that is only asked for times, or nil if it is not
// worth another try.
func (u *Upstream) unlisted(r message.Repository, err error) error {
	switch class := outcome.Classify(err); {
	case class == outcome.Limited, class == outcome.Interrupted, class == outcome.Transient && r.Attempts < bulkTries:
		return err
	}
	return nil
}
