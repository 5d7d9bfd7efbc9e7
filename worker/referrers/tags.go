package referrers

import (
	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
)

// maxEncoded limits the hex digits in a referrers tag: OCI distribution specification
// 1.1, "Referrers Tag Schema". Its other rules change nothing of the algorithms there are.
const maxEncoded = 64

// companions are the suffixes of cosign's older scheme: signature, attestations,
// SBOM.
var companions = []string{".sig", ".att", ".sbom"}

// FallbackTag is the tag under which a registry without the referrers API keeps
// the index of the referrers of a digest: sha256-HEX.
func FallbackTag(digest reference.Digest) reference.Tag {
	return reference.MustTag(digest.Algorithm() + "-" + digest.Hex()[:maxEncoded])
}

// CompanionTags are the tags that cosign's older scheme gives to the companions of
// a digest, whether or not there are any: sha256-HEX.sig, .att and .sbom. Those of a
// SHA-512 digest would be longer than a tag can be.
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
