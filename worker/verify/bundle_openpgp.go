//go:build containers_image_openpgp

package verify

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/osism/skopeo-worker/worker/referrers"
	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	// unsigned is part of the error of containers/image for an image without a signature in a
	// format that it reads.
	unsigned = "no signature exists"
	// bundle is part of the artifact types and annotations of Sigstore bundles (cosign's
	// BUNDLE_SPEC.md). Some versions list them with another artifactType (sigstore/cosign#4422).
	bundle = "dev.sigstore.bundle"

	// bundled is added to the error of an image that has a bundle.
	bundled = "; the image has a Sigstore bundle, as cosign 3 stores signatures and attestations, which is not read: sign with --new-bundle-format=false --use-signing-config=false"
)

// hint returns a hint for the operator about a rejected image, or "". For an image without a
// signature, it sends a request. If the registry has no referrers API, that may be a pull.
func (w *way) hint(rejected error) string {
	if strings.Contains(rejected.Error(), unsigned) && w.bundled() {
		return bundled
	}
	return ""
}

// hasBundle reports whether a Sigstore bundle is known to refer to the image.
func (w *way) hasBundle() bool {
	for entry, err := range w.gate.client.Referrers(w.ctx, w.source, w.manifest.Digest) {
		if errors.Is(err, registry.ErrNoReferrersAPI) {
			return w.listsBundle()
		}
		if err != nil {
			return false
		}
		if isBundle(entry) {
			return true
		}
	}
	return false
}

// listsBundle reports whether the fallback tag of the image's referrers lists a bundle.
func (w *way) listsBundle() bool {
	tag := referrers.FallbackTag(w.manifest.Digest)
	if _, err := w.gate.client.Head(w.ctx, w.source, tag); err != nil {
		return false
	}
	raw, mediaType, err := w.pull(w.source, tag)
	if err != nil {
		return false
	}
	entries, _ := registry.Manifest{Raw: raw, MediaType: mediaType}.Entries() // none after an error
	return slices.ContainsFunc(entries, isBundle)
}

func isBundle(entry registry.Entry) bool {
	var listed struct {
		ArtifactType string `json:"artifactType"`
	}
	_ = json.Unmarshal(entry.Raw, &listed)
	for annotation := range entry.Annotations {
		if strings.HasPrefix(annotation, bundle) {
			return true
		}
	}
	return strings.HasPrefix(listed.ArtifactType, "application/vnd."+bundle)
}
