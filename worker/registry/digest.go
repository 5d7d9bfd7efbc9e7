package registry

import (
	"net/http"
	"path"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/manifest"

	"github.com/osism/skopeo-worker/shared/reference"
)

// digestAs is the digest of a manifest by the algorithm of another digest. That of a signed
// manifest of Docker's schema 1 leaves the signatures out.
func digestAs(other reference.Digest, raw []byte) reference.Digest {
	unsigned, err := manifest.DigestWithAlgorithm(raw, digest.Algorithm(other.Algorithm()))
	if err != nil {
		return other.Of(raw)
	}
	found, err := reference.ParseDigest(unsigned.String())
	if err != nil {
		return other.Of(raw)
	}
	return found
}

// storedAs is the digest under which a registry says that it has stored a manifest.
func storedAs(header http.Header) (reference.Digest, error) {
	stored, err := reference.ParseDigest(header.Get(digestHeader))
	if err != nil {
		return reference.ParseDigest(path.Base(header.Get("Location")))
	}
	return stored, nil
}
