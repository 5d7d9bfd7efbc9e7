package listing_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/registrytest"
)

// TestEntryThatCanNotBeRead: of one entry of a page, only the name is believed, and the
// others are what they are.
func TestEntryThatCanNotBeRead(t *testing.T) {
	digest := "sha256:" + strings.Repeat("1", 64)
	for name, odd := range map[string]string{
		"digest": `{"name":"odd","digest":7,"manifest_digest":7}`,
		"times":  `{"name":"odd","last_updated":7,"last_modified":7,"start_ts":"x"}`,
		"sizes":  `{"name":"odd","full_size":"7","size":"7","images":{}}`,
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, repository string) {
				s := start(t, registrytest.BulkAPI{}, registrytest.BulkAPI{})
				s.push(t, repository, "a")
				r, _ := s.upstream(repository)
				entries := `[{"name":"a","digest":"` + digest + `","manifest_digest":"` + digest + `"},` + odd + `]`
				r.Inject(registrytest.Fault{Match: bulk, Status: http.StatusOK, Body: `{"results":` + entries + `,"tags":` + entries + `,"has_additional":false}`})
				tags, err := s.list(t.Context(), repository)
				require.NoError(t, err)
				require.Equal(t, []string{"a", "odd"}, namesOf(tags))
				require.Equal(t, digest, tags[0].Digest.String())
				require.True(t, tags[1].Digest.IsZero())
				require.Empty(t, s.log.String())
			})
		})
	}
}
