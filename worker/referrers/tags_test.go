package referrers_test

import (
	"strings"
	"testing"

	"github.com/osism/skopeo-worker/shared/selection"
	"github.com/osism/skopeo-worker/worker/referrers"
	"github.com/stretchr/testify/require"
)

func TestTags(t *testing.T) {
	hex := strings.Repeat("a1", 32)
	digest := "sha256:" + hex
	require.Equal(t, "sha256-"+hex, referrers.FallbackTag(digest))
	require.Equal(t, "sha512-"+hex, referrers.FallbackTag("sha512:"+hex+hex))
	// The example of the specification.
	require.Equal(t, "test-algorithm-using-algorithm-s-alsoSome-InTheEncodedSectionToShowHyphenReplacementAndLotsAndLot",
		referrers.FallbackTag("test+algorithm+using+algorithm+separators+and+lots+of+characters+to+excercise+overall+truncation:"+
			"alsoSome=InTheEncodedSectionToShowHyphenReplacementAndLotsAndLotsOfCharactersToExcerciseEncodedTruncation"))
	require.Equal(t, []string{"sha256-" + hex + ".sig", "sha256-" + hex + ".att", "sha256-" + hex + ".sbom"}, referrers.CompanionTags(digest))

	for _, tag := range append(referrers.CompanionTags(digest), referrers.FallbackTag(digest)) {
		subject, ok := selection.Companion(tag)
		require.True(t, ok, "it belongs to its image")
		require.Equal(t, digest, subject)
	}
}
