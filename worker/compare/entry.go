package compare

import (
	"strings"

	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/mirror"
	"github.com/osism/skopeo-worker/worker/platform"
)

// Entry identifies the entry of the list that a repository of a chunk comes from. Two entries
// of one repository differ even if their selections are equal.
type Entry struct {
	source, destination reference.Repository
	tag                 reference.Tag
	digest              reference.Digest
	selection           *selection.Selection
}

// EntryOf returns the entry that a repository comes from.
func EntryOf(r message.Repository) Entry {
	return Entry{r.Source, r.Destination, r.Tag, r.Digest, r.Selection}
}

// IsRepository reports whether an entry names neither a tag nor a digest.
func IsRepository(r message.Repository) bool { return r.Tag.IsZero() && r.Digest.IsZero() }

// IsOpen reports whether an entry selects among the tags that the source lists, rather than
// naming its tags.
func IsOpen(r message.Repository) bool {
	return IsRepository(r) && (r.Selection == nil || len(r.Selection.List) == 0)
}

// Wanted returns the platforms of an entry's images that are mirrored.
func Wanted(r message.Repository) platform.Wanted {
	if r.Selection == nil {
		return platform.Wanted{}
	}
	return platform.Wanted{Platforms: r.Selection.Platforms, WithoutAttestations: r.Selection.WithoutAttestations}
}

// BringsReferrers reports whether the referrers of an entry's images are mirrored, too.
func BringsReferrers(r message.Repository) bool { return r.Selection != nil && r.Selection.Referrers }

// DestinationTag returns the tag that an image gets at the destination.
func DestinationTag(i message.Image) reference.Tag {
	return reference.Reference{Tag: i.Tag, Digest: i.Digest}.DestinationTag()
}

// SourceTag returns the tag under which the signature policy judges an image; zero if the list
// names its digest.
func SourceTag(r message.Repository, i message.Image) reference.Tag {
	if !r.Digest.IsZero() {
		return reference.Tag{}
	}
	return i.Tag
}

// Target returns the place to which an image of an entry is mirrored.
func Target(r message.Repository, i message.Image) mirror.Target {
	return mirror.Target{Repository: r.Destination, Tag: DestinationTag(i), Referrers: BringsReferrers(r)}
}

// Grouped puts entries with equal keys together. The groups are in the order of their first
// entries.
func Grouped[K comparable](entries []message.Repository, key func(message.Repository) K) [][]message.Repository {
	var groups [][]message.Repository
	index := map[K]int{}
	for _, r := range entries {
		i, known := index[key(r)]
		if !known {
			i = len(groups)
			index[key(r)] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], r)
	}
	return groups
}

// place is a tag of a destination, with its source.
type place struct {
	source, destination reference.Repository
	tag                 reference.Tag
}

func placeOf(r message.Repository, i message.Image) place {
	return place{r.Source, r.Destination, DestinationTag(i)}
}

// content is a digest of the source, with the platforms of it that a destination is to have.
type content struct {
	destination         reference.Repository
	digest              reference.Digest
	platforms           string
	withoutAttestations bool
}

func contentOf(r message.Repository, digest reference.Digest) content {
	w := Wanted(r)
	return content{r.Destination, digest, strings.Join(w.Platforms, ","), w.WithoutAttestations}
}
