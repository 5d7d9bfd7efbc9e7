package containers_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/cloud"
	"github.com/osism/skopeo-worker/worker/containers"
)

// TestCloud: credentials in a file take precedence over the login of this process at the cloud, and
// Unknown returns only the latter.
func TestCloud(t *testing.T) {
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		_, _ = w.Write([]byte(`{"access_token":"of-the-cloud","expires_in":3599,"token_type":"Bearer"}`))
	}))
	t.Cleanup(metadata.Close)
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(metadata.URL, "http://"))
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	t.Setenv("HOME", t.TempDir())
	auth := filepath.Join(t.TempDir(), "auth.json")
	require.NoError(t, os.WriteFile(auth, []byte(`{"auths":{"eu.gcr.io":{"auth":"cmVhZGVyOm9mLXRoZS1maWxl"}}}`), 0o600))
	t.Setenv("REGISTRY_AUTH_FILE", auth)

	k := containers.New(cloud.New("gar"))
	found, err := k.Find(t.Context(), "eu.gcr.io/project/app")
	require.NoError(t, err)
	require.Equal(t, "of-the-file", found.Password)
	unknown, err := k.Unknown(t.Context(), "eu.gcr.io/project/app")
	require.NoError(t, err)
	require.True(t, unknown.Anonymous())

	found, err = k.Find(t.Context(), "europe-docker.pkg.dev/project/apps/app")
	require.NoError(t, err)
	require.Equal(t, "oauth2accesstoken", found.Username)
	require.Equal(t, "of-the-cloud", found.Password)
	unknown, err = k.Unknown(t.Context(), "europe-docker.pkg.dev/project/apps/app")
	require.NoError(t, err)
	require.Equal(t, found, unknown)

	unknown, err = k.Unknown(t.Context(), "quay.io/osism/osism")
	require.NoError(t, err)
	require.True(t, unknown.Anonymous())
}
