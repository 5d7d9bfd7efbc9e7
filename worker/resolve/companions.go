package resolve

import (
	"context"
	"errors"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/listing"
	"github.com/osism/skopeo-worker/worker/referrers"
	"github.com/osism/skopeo-worker/worker/registry"
)

// Companions are the tags of companions by the digest of the manifest to which they belong; see
// selection.Companion.
type Companions map[reference.Digest][]listing.Tag

// add adds the tag of a companion. It returns false for any other tag.
func (c Companions) add(tag listing.Tag) bool {
	digest, companion := selection.Companion(tag.Name.String())
	if companion {
		c[digest] = append(c[digest], tag)
	}
	return companion
}

// anyCompanion matches the tags of companions.
const anyCompanion = `sha256-[0-9a-f]{64}(\.(sig|att|sbom))?$`

// BringsCompanions reports whether companions are mirrored with the images of an entry: if the entry
// selects tags of a repository, or if it names an image and wants its referrers. Without a
// selection, all tags of a repository are mirrored anyway.
func BringsCompanions(r message.Repository) bool {
	s := r.Selection
	named := !r.Tag.IsZero() || !r.Digest.IsZero()
	return s != nil && (named && s.Referrers || !named && !s.Tags().IsZero())
}

// OfCompanions returns the entry of the companions of another entry's images. As with any open
// entry, its tags may vanish.
func OfCompanions(r message.Repository) message.Repository {
	contents := r.Selection.Contents()
	contents.Include = []string{anyCompanion}
	return message.Repository{Source: r.Source, Destination: r.Destination, Selection: &contents, Found: true}
}

// AreCompanions reports whether an entry comes from OfCompanions.
func AreCompanions(r message.Repository) bool {
	return r.Selection != nil && len(r.Selection.Include) == 1 && r.Selection.Include[0] == anyCompanion
}

// ListCompanions lists all companions in a repository. The error is of the package registry.
func ListCompanions(ctx context.Context, client *registry.Client, repository reference.Repository) (Companions, error) {
	found := Companions{}
	for name, err := range client.Tags(ctx, repository) {
		if errors.Is(err, reference.ErrInvalidTag) {
			continue // it is not a companion; resolving the repository reports it
		}
		if err != nil {
			return nil, err
		}
		found.add(listing.Tag{Name: name})
	}
	return found, nil
}

// PossibleCompanions returns the tags that companions of a manifest would have.
func PossibleCompanions(digest reference.Digest) []reference.Tag {
	return append(referrers.CompanionTags(digest), referrers.FallbackTag(digest))
}
