package referrers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/registry"
)

// ErrOccupied is returned if the fallback tag is not on an OCI index. The OCI distribution
// specification forbids replacing such a manifest.
var ErrOccupied = errors.New("the tag for referrers is on something else")

// annotationSource holds the digest of the source's index, if the index of the destination also
// lists referrers of other clients.
const annotationSource = "io.osism.skopeo-worker.referrers"

// emptyIndex is the index to which the first referrers are added.
var emptyIndex = registry.Manifest{
	Raw:       []byte(`{"schemaVersion":2,"mediaType":"` + types.OCIImageIndex + `","manifests":[]}`),
	MediaType: string(types.OCIImageIndex),
}

// Announce lists referrers at the destination, which must have all of them. A registry with the
// referrers API lists them itself. At any other registry, the client that pushes them has to add
// them to the index under the fallback tag. Announce keeps the referrers that the index lists, and
// puts no index if none is missing. The error may be ErrOccupied.
//
// A client can replace only the whole index. If two clients do so at once, the referrers of one may
// be lost; the next Announce adds them again.
func Announce(ctx context.Context, client *registry.Client, destination reference.Repository, list List) error {
	if len(list.Referrers) == 0 {
		return nil
	}
	served, err := serves(ctx, client, destination, list.Subject)
	if err != nil || served {
		return err
	}
	tag := FallbackTag(list.Subject)
	var held registry.Manifest
	head, err := client.Find(ctx, destination, tag)
	switch {
	case err == nil:
		if head.Digest == list.Tagged.Digest && list.tagged() {
			return nil
		}
		if held, err = client.Get(ctx, destination, head.Digest); err != nil && !errors.Is(err, registry.ErrNotFound) {
			return err
		}
	case !registry.Absent(err):
		return err
	}
	index, changed, err := Fallback(held, list)
	if err != nil {
		return fmt.Errorf("%s:%s: %w", destination, tag, err)
	}
	if !changed {
		return nil
	}
	return client.Put(ctx, destination, tag, index)
}

// serves reports whether the registry has the referrers API.
func serves(ctx context.Context, client *registry.Client, repository reference.Repository, digest reference.Digest) (bool, error) {
	for _, err := range client.Referrers(ctx, repository, digest) {
		if errors.Is(err, registry.ErrNoReferrersAPI) {
			return false, nil
		}
		return err == nil, err
	}
	return true, nil
}

// Fallback returns the index to put under FallbackTag(list.Subject). held is the index that is
// under the tag now, or the zero Manifest. changed reports whether the index differs from held.
// Equal input gives an equal digest.
//
// If the list was found in the source's index under that tag, the index lists nothing else, and
// held lists no referrers of other clients, Fallback returns the source's index unchanged, so that
// the tag has the same digest on both sides. Otherwise, the entries of held keep their order and
// fields, missing entries follow in the order of their digests, and an annotation names the
// source's index: see Current. The errors are ErrOccupied and registry.ErrBadManifest.
func Fallback(held registry.Manifest, list List) (index registry.Manifest, changed bool, err error) {
	switch {
	case held.Raw == nil:
		held = emptyIndex
	case held.MediaType != string(types.OCIImageIndex):
		return registry.Manifest{}, false, fmt.Errorf("%w: %s", ErrOccupied, held.MediaType)
	}
	entries, err := held.Entries()
	if err != nil {
		return registry.Manifest{}, false, err
	}
	if list.tagged() && !slices.ContainsFunc(entries, func(entry registry.Entry) bool { return !list.has(entry.Digest) }) {
		return list.Tagged, held.Digest != list.Tagged.Digest, nil
	}
	listed := List{Referrers: entries}
	missing := slices.DeleteFunc(slices.Clone(list.Referrers), func(entry registry.Entry) bool { return listed.has(entry.Digest) })
	if len(missing) == 0 && (!list.tagged() || Current(held, list.Tagged.Digest)) {
		return held, false, nil
	}
	slices.SortFunc(missing, func(a, b registry.Entry) int { return cmp.Compare(a.Digest.String(), b.Digest.String()) })
	var made map[string]string
	if list.tagged() {
		made = map[string]string{annotationSource: list.Tagged.Digest.String()}
	}
	index, err = held.WithEntries(append(entries, missing...), made)
	return index, true, err
}

// Current reports whether an index under a fallback tag has all entries of the source's index with
// this digest.
func Current(held registry.Manifest, source reference.Digest) bool {
	if held.Digest == source {
		return true
	}
	var index struct {
		Annotations map[string]string `json:"annotations"`
	}
	return held.MediaType == string(types.OCIImageIndex) && json.Unmarshal(held.Raw, &index) == nil &&
		index.Annotations[annotationSource] == source.String()
}

// Retag returns the manifest to put under a fallback tag that the source has. held is the
// destination's manifest under the tag. If both are indexes of referrers, it is their Fallback,
// and otherwise the source's manifest, because images may have such tags, too.
func Retag(held, source registry.Manifest) (registry.Manifest, error) {
	list := List{Tagged: source}
	for _, m := range []registry.Manifest{held, source} {
		if m.MediaType != string(types.OCIImageIndex) {
			return source, nil
		}
		entries, err := m.Entries()
		if err != nil || slices.ContainsFunc(entries, func(entry registry.Entry) bool { return entry.Platform != "" }) {
			return source, nil
		}
		list.Referrers = nil
		for _, entry := range entries {
			list.add(entry)
		}
	}
	index, _, err := Fallback(held, list)
	return index, err
}

// tagged reports whether the list was found in an index under the fallback tag, and still has all
// of its entries.
func (l *List) tagged() bool {
	entries, err := l.Tagged.Entries()
	if err != nil || l.Tagged.Raw == nil {
		return false
	}
	index := List{}
	for _, entry := range entries {
		index.add(entry)
	}
	return len(index.Referrers) == len(l.Referrers) &&
		!slices.ContainsFunc(l.Referrers, func(entry registry.Entry) bool { return !index.has(entry.Digest) })
}

// maxEncoded is how many hex digits a fallback tag has at most: OCI distribution specification 1.1,
// "Referrers Tag Schema". Its other rules do not apply to existing digest algorithms.
const maxEncoded = 64

// companions are the suffixes of cosign's older scheme: signature, attestations, SBOM.
var companions = []string{".sig", ".att", ".sbom"}

// FallbackTag returns the tag of the index of a digest's referrers at registries without the
// referrers API: sha256-HEX.
func FallbackTag(digest reference.Digest) reference.Tag {
	return reference.MustTag(digest.Algorithm() + "-" + digest.Hex()[:maxEncoded])
}

// CompanionTags returns the tags that the companions of a digest have in cosign's older scheme:
// sha256-HEX.sig, .att and .sbom. It returns none for a SHA-512 digest, whose tags would be too
// long.
func CompanionTags(digest reference.Digest) []reference.Tag {
	var tags []reference.Tag
	for _, suffix := range companions {
		if tag, err := reference.ParseTag(digest.Algorithm() + "-" + digest.Hex() + suffix); err == nil {
			tags = append(tags, tag)
		}
	}
	return tags
}

// IsFallback reports whether a tag is the FallbackTag of a digest.
func IsFallback(tag reference.Tag) bool {
	digest, companion := selection.Companion(tag.String())
	return companion && tag == FallbackTag(digest)
}
