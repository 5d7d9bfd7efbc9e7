//go:build containers_image_openpgp

package verify_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestBundle: if an image has no readable signature, but a bundle of cosign 3, the error says so,
// with or without the referrers API. Only then is the registry asked for bundles.
func TestBundle(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{"API": {registrytest.WithReferrersAPI(1)}, "tag": nil} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, options...)
			digest := push(t, s)
			s.trust(t, scoped(s.from.Host(), s.cosign(t, reference.DigestOf(nil).String())))
			_, err := s.from.PushReferrer(repository, digest, "application/spdx+json")
			require.NoError(t, err)
			err = s.ask(t, "1", digest)
			rejected(t, err, "no signature exists")
			require.NotContains(t, err.Error(), "cosign 3")
			_, err = s.from.PushReferrer(repository, digest, "application/vnd.dev.sigstore.bundle.v0.3+json")
			require.NoError(t, err)
			rejected(t, s.ask(t, "1", digest), "the image has a Sigstore bundle, as cosign 3 stores signatures")

			s.cosign(t, digest)
			s.cosign(t, reference.DigestOf(nil).String()) // which puts another key into its file
			s.from.ResetRequests()
			err = s.ask(t, "1", digest)
			rejected(t, err, "cryptographic signature verification failed")
			require.NotContains(t, err.Error(), "cosign 3")
			require.Zero(t, s.from.Count(registrytest.Kinds(registrytest.KindReferrers)))
		})
	}
}
