// Package platform selects images by platform, and makes an index of some of the platforms of
// another index.
package platform

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/registry"
)

var (
	// ErrNoPlatform is returned for an index with none of the wanted platforms.
	ErrNoPlatform = errors.New("none of the platforms")
	// ErrConfig is returned if a blob is not the configuration of an image.
	ErrConfig = errors.New("not an image configuration")
)

// Annotations of a rewritten index. They record the source's index and the selection, so that one
// GET at the destination shows whether it is up to date.
const (
	annotationSource       = "io.osism.skopeo-worker.source"       // digest of the source's index
	annotationPlatforms    = "io.osism.skopeo-worker.platforms"    // normalised, separated by commas; "all" for all
	annotationAttestations = "io.osism.skopeo-worker.attestations" // "true" or "false"
)

// every is the value of annotationPlatforms if only attestations were left out.
const every = "all"

// Wanted is the part of an index that is mirrored.
type Wanted struct {
	Platforms           []string // os/arch[/variant] from selection.ParsePlatforms; empty for all
	WithoutAttestations bool
}

// All reports whether the whole index is wanted, so that it is not rewritten.
func (w Wanted) All() bool { return len(w.Platforms) == 0 && !w.WithoutAttestations }

// Current reports whether the manifest at the destination is the Subset of the source's manifest
// with this digest. It does not need the source's manifest: a rewritten index names it in its
// annotations, and the source's own manifest is current if Subset would not change it.
func (w Wanted) Current(atDestination registry.Manifest, sourceDigest reference.Digest) bool {
	if atDestination.Digest == sourceDigest {
		subset, _, err := w.Subset(atDestination)
		return err == nil && subset.Digest == sourceDigest
	}
	if w.All() || !atDestination.IsIndex() {
		return false
	}
	var index struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(atDestination.Raw, &index) != nil {
		return false
	}
	maps.DeleteFunc(index.Annotations, func(key, _ string) bool {
		return key != annotationSource && key != annotationPlatforms && key != annotationAttestations
	})
	return maps.Equal(index.Annotations, w.annotations(sourceDigest))
}

func (w Wanted) annotations(sourceDigest reference.Digest) map[string]string {
	return map[string]string{
		annotationSource:       sourceDigest.String(),
		annotationPlatforms:    w.platforms(),
		annotationAttestations: strconv.FormatBool(!w.WithoutAttestations),
	}
}

func (w Wanted) platforms() string {
	if len(w.Platforms) == 0 {
		return every
	}
	return strings.Join(w.Platforms, ",")
}

// Image reports whether an image without an index is for a wanted platform, according to its
// configuration: a blob of a media type for which go-containerregistry's MediaType.IsConfig is
// true. An image that names no platform is wanted, as in an index. The error is ErrConfig.
func (w Wanted) Image(config []byte) (matches bool, err error) {
	var image selection.Platform
	if err := json.Unmarshal(config, &image); err != nil {
		return false, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return image.OS == "" || w.covers(selection.NewPlatform(image.OS, image.Architecture, image.Variant)), nil
}

// Covers reports whether an image for the platform, os/arch[/variant] in any spelling, is
// wanted.
func (w Wanted) Covers(platform string) bool { return w.covers(selection.SplitPlatform(platform)) }

func (w Wanted) covers(image selection.Platform) bool {
	return len(w.Platforms) == 0 || slices.ContainsFunc(w.Platforms, func(wanted string) bool {
		return selection.SplitPlatform(wanted).Covers(image)
	})
}

// Annotations of an attestation in an index (attestation-storage.md of BuildKit's
// documentation).
const (
	annotationType   = "vnd.docker.reference.type"
	annotationDigest = "vnd.docker.reference.digest"
	typeAttestation  = "attestation-manifest"
)

// Subset returns an index of the wanted part, and its entries. All entries must be at the
// destination before the index is put.
//
//   - An entry is kept if its platform is wanted, or if it has none: it is an artifact, or an
//     index of unknown platforms.
//   - A nested index is kept whole or not at all.
//   - An attestation is kept with its image, if attestations are wanted. If platforms are
//     selected, an attestation of an image that is not in the index is left out.
//
// If all entries are kept, the index is unchanged and has its own digest. Otherwise, annotations
// record the source's index; the kept entries, their order, the other fields and the media type
// are unchanged. A Docker list gets annotations, too, although its format has none: docker and
// containerd accept such lists, and distribution, Quay and skopeo ignore unknown fields. Google's
// registries refuse them (regclient#466). The alternative would be an OCI index of Docker images,
// which Quay refused before the fix of PROJQUAY-11637 in 2026.
//
// An image is returned unchanged; Image reports whether it is wanted. The errors are
// ErrNoPlatform and registry.ErrBadManifest.
func (w Wanted) Subset(index registry.Manifest) (registry.Manifest, []registry.Entry, error) {
	entries, err := index.Entries()
	if err != nil {
		return registry.Manifest{}, nil, err
	}
	kept, err := w.choose(entries)
	if err != nil {
		return registry.Manifest{}, nil, err
	}
	if len(kept) == len(entries) {
		return index, kept, nil
	}
	subset, err := index.WithEntries(kept, w.annotations(index.Digest))
	if err != nil {
		return registry.Manifest{}, nil, err
	}
	return subset, kept, nil
}

// choose returns the entries to keep.
func (w Wanted) choose(entries []registry.Entry) ([]registry.Entry, error) {
	matches := func(entry registry.Entry) bool {
		return entry.Platform == "" || w.Covers(entry.Platform)
	}
	subjects := make(map[string]bool) // of attestations that are kept
	for _, entry := range entries {
		if !Attestation(entry) && matches(entry) {
			subjects[entry.Digest.String()] = true
		}
	}
	var kept []registry.Entry
	for _, entry := range entries {
		keep := matches(entry)
		if Attestation(entry) {
			keep = !w.WithoutAttestations && (len(w.Platforms) == 0 || subjects[entry.Annotations[annotationDigest]])
		}
		if keep {
			kept = append(kept, entry)
		}
	}
	lost := slices.ContainsFunc(entries, isImage) && !slices.ContainsFunc(kept, isImage)
	if lost || len(kept) == 0 && len(entries) > 0 {
		return nil, fmt.Errorf("%w %s: it has %s", ErrNoPlatform, w.platforms(), offer(entries))
	}
	return kept, nil
}

// Attestation reports whether an entry of an index is an attestation of BuildKit.
func Attestation(entry registry.Entry) bool {
	return entry.Annotations[annotationType] == typeAttestation
}

// isImage reports whether an entry is an image or an index, as opposed to an attestation or an
// artifact.
func isImage(entry registry.Entry) bool {
	return !Attestation(entry) && (entry.Platform != "" || types.MediaType(entry.MediaType).IsIndex())
}

// offer lists the platforms of an index for an error.
func offer(entries []registry.Entry) string {
	var names []string
	for _, entry := range entries {
		if isImage(entry) {
			names = append(names, entry.Platform)
		}
	}
	if len(names) == 0 {
		return "attestations only"
	}
	return strings.Join(names, ", ")
}
