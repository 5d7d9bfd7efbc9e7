package referrers_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/referrers"
)

func TestTags(t *testing.T) {
	hex := strings.Repeat("a1", 32)
	digest := reference.MustDigest("sha256:" + hex)
	long := reference.MustDigest("sha512:" + hex + hex)
	require.Equal(t, "sha256-"+hex, referrers.FallbackTag(digest).String())
	require.Equal(t, "sha512-"+hex, referrers.FallbackTag(long).String())
	require.Equal(t, []reference.Tag{
		reference.MustTag("sha256-" + hex + ".sig"), reference.MustTag("sha256-" + hex + ".att"), reference.MustTag("sha256-" + hex + ".sbom"),
	}, referrers.CompanionTags(digest))
	require.Empty(t, referrers.CompanionTags(long), "they would be too long")

	for _, tag := range append(referrers.CompanionTags(digest), referrers.FallbackTag(digest)) {
		subject, ok := selection.Companion(tag.String())
		require.True(t, ok, "it belongs to its image")
		require.Equal(t, digest, subject)
	}
}
