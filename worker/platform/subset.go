package platform

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/worker/registry"
)

// Annotations of an attestation in an index (attestation-storage.md of BuildKit's
// documentation).
const (
	annotationType   = "vnd.docker.reference.type"
	annotationDigest = "vnd.docker.reference.digest"
	typeAttestation  = "attestation-manifest"
)

// Subset returns an index of the wanted part, and its entries, all of which must be at the
// destination before the index is put.
//
//   - A child is kept if its platform is wanted, or if it has none: then it is an artifact,
//     or an index of unknown platforms.
//   - A nested index is kept whole or not at all.
//   - An attestation is kept with its image, unless attestations are not wanted. One whose
//     image is not in the index is left out if platforms are chosen.
//
// If everything is wanted, Subset returns the index unchanged, under its own digest. Otherwise
// kept descriptors, their order, the index's other fields and its media type are unchanged,
// and annotations record the source's index. A Docker list gets them, too, although its
// format has none: Docker Hub serves such lists to docker and containerd, and distribution,
// Quay and skopeo ignore unknown fields; Google's registries refuse them (regclient#466). The
// alternative, an OCI index of Docker images, is refused by Quay before the fix of
// PROJQUAY-11637 in 2026.
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

// Attestation reports whether an entry of an index is an attestation of BuildKit's.
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
