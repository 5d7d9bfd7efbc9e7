//go:build containers_image_openpgp

package verify

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/osism/skopeo-worker/worker/referrers"
	"github.com/osism/skopeo-worker/worker/registry"
)

const (
	// unsigned is in the error of containers/image for an image without any signature that it reads.
	unsigned = "no signature exists"
	// bundle is in the types and annotations by which cosign stores Sigstore bundles, as its
	// BUNDLE_SPEC.md has it. Some versions list them with another artifactType (sigstore/cosign#4422).
	bundle = "dev.sigstore.bundle"

	// bundled is added to the error of an image that has a bundle.
	bundled = "; the image has a Sigstore bundle, as cosign 3 stores signatures and attestations, which is not read: sign with --new-bundle-format=false --use-signing-config=false"
)

// hint returns what an operator should know about an image that was rejected, or "". It takes a
// request for an image without a signature, and a pull if the registry has no referrers API.
func (w *way) hint(rejected error) string {
	if !strings.Contains(rejected.Error(), unsigned) {
		return ""
	}
	w.once.Do(func() { w.bundled = w.hasBundle() })
	if w.bundled {
		return bundled
	}
	return ""
}

// hasBundle reports whether a Sigstore bundle refers to the image. It is false if that is unknown.
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

// listsBundle reports whether a bundle is listed under the tag that lists referrers for registries
// without the referrers API.
func (w *way) listsBundle() bool {
	tag := referrers.FallbackTag(w.manifest.Digest)
	if _, err := w.gate.client.Head(w.ctx, w.source, tag); err != nil {
		return false
	}
	raw, mediaType, err := w.pull(w.source, tag)
	if err != nil {
		return false
	}
	entries, _ := registry.Manifest{Raw: raw, MediaType: mediaType}.Entries() // what cannot be read lists none
	for _, entry := range entries {
		if isBundle(entry) {
			return true
		}
	}
	return false
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
