package platform

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/osism/skopeo-worker/worker/registry"
)

// How BuildKit lists an attestation in an index: attestation-storage.md of its
// documentation.
const (
	annotationType   = "vnd.docker.reference.type"
	annotationDigest = "vnd.docker.reference.digest"
	typeAttestation  = "attestation-manifest"
)

// Subset returns the index of what is wanted and what it lists, all
// of which must be at the destination before it is put.
//
//   - A child is kept if its platform is wanted. One that names none is kept: an
//     artifact, or an index, of which nothing else is known.
//   - A nested index is kept whole or not at all; it is not looked into.
//   - An attestation goes with the child it is about, unless attestations are not
//     wanted. One about nothing in the index goes if platforms are chosen.
//
// Where all of it is wanted, the source's index is returned as it is, under its
// own digest. Otherwise kept descriptors, their order, the index's other fields
// and its media type stay as they are, and annotations say what it was made of.
// A Docker list gets them too, though its format knows none: Docker Hub serves
// such lists to docker and containerd, and distribution, Quay and skopeo ignore
// what they do not know; Google's registries refuse them (regclient#466). The
// other way, an OCI index of Docker images, is refused by Quay before the fix of
// PROJQUAY-11637 in 2026.
//
// An image is returned as it is; Image tells whether it is wanted. The errors
// are ErrNoPlatform and registry.ErrBadManifest.
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
	subjects := make(map[string]bool) // what an attestation can go with
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

// Attestation tells whether an index lists the manifest as BuildKit lists the
// attestation of another one.
func Attestation(entry registry.Entry) bool {
	return entry.Annotations[annotationType] == typeAttestation
}

// isImage tells images, and indexes of them, from what comes along with them.
func isImage(entry registry.Entry) bool {
	return !Attestation(entry) && (entry.Platform != "" || types.MediaType(entry.MediaType).IsIndex())
}

// offer is what an index has instead of what is wanted.
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
