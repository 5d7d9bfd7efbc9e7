package referrers

import (
	"regexp"
	"strings"
)

// Limits of the parts of a referrers tag, and what no tag may have: OCI
// distribution specification 1.1, "Referrers Tag Schema" and "Pulling manifests".
const (
	maxAlgorithm = 32
	maxEncoded   = 64
)

var notInTags = regexp.MustCompile(`[^a-zA-Z0-9._-]`)

// companions are the suffixes of cosign's older scheme: signature, attestations,
// SBOM.
var companions = []string{".sig", ".att", ".sbom"}

// FallbackTag is the tag under which a registry without the referrers API keeps
// the index of what refers to a digest: sha256-HEX.
func FallbackTag(digest string) string {
	algorithm, encoded, _ := strings.Cut(digest, ":")
	tag := algorithm[:min(len(algorithm), maxAlgorithm)] + "-" + encoded[:min(len(encoded), maxEncoded)]
	return notInTags.ReplaceAllString(tag, "-")
}

// CompanionTags are the tags that cosign's older scheme gives to what belongs to
// a digest, whether or not there are any: sha256-HEX.sig, .att and .sbom.
func CompanionTags(digest string) []string {
	tags := make([]string, len(companions))
	for i, suffix := range companions {
		tags[i] = strings.Replace(digest, ":", "-", 1) + suffix
	}
	return tags
}
