package selection

import (
	"regexp"

	"github.com/osism/skopeo-worker/shared/reference"
)

// companion is a tag that is made of the digest of what it belongs to: cosign's
// (Triangulate in github.com/sigstore/cosign, pkg/oci/remote), and the referrers
// tag of the OCI distribution specification, 1.1.
var companion = regexp.MustCompile(`^sha256-([0-9a-f]{64})(?:\.(?:sig|att|sbom))?$`)

// Companion tells whether a tag is a signature, an attestation, an SBOM or the
// list of referrers of an image, and the digest of that image. A mirrored tag
// brings the companions of its digest, whatever the selection says of their names;
// that is up to who mirrors it, who alone knows the digest.
func Companion(tag string) (digest reference.Digest, ok bool) {
	match := companion.FindStringSubmatch(tag)
	if match == nil {
		return reference.Digest{}, false
	}
	digest, err := reference.ParseDigest("sha256:" + match[1])
	return digest, err == nil
}
