package skopeo_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// TestCredentials that skopeo does not find itself reach it in a file: no argument has them,
// and no file is left. Those of the other side are where skopeo finds them.
func TestCredentials(t *testing.T) {
	from, to := registrytest.New(t, registrytest.WithBasicAuth("reader", "of-the-file")), registrytest.New(t, registrytest.WithBasicAuth("AWS", "of-the-cloud"))
	digest, err := from.PushImage(source, "1", registrytest.Image{})
	require.NoError(t, err)
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	auth := filepath.Join(t.TempDir(), "auth.json")
	require.NoError(t, os.WriteFile(auth, []byte(`{"auths":{"`+from.Host()+`":{"auth":"cmVhZGVyOm9mLXRoZS1maWxl"}}}`), 0o600))
	t.Setenv("REGISTRY_AUTH_FILE", auth)
	seen := filepath.Join(t.TempDir(), "seen")
	r := script(t, `echo "$*" >>'`+seen+`'; stat -c '%a' "$TMPDIR"/skopeo-auth-*.json >>'`+seen+`'; exec skopeo "$@"`)
	r.Insecure = []string{from.Host(), to.Host()}
	r.Credentials = func(_ context.Context, repository string) (containers.Credential, error) {
		if repository == to.Host()+"/"+destination {
			return containers.Credential{Username: "AWS", Password: "of-the-cloud"}, nil
		}
		return containers.Credential{}, nil
	}
	require.NoError(t, copyImage(t.Context(), r, from, to, digest))
	said, err := os.ReadFile(seen)
	require.NoError(t, err)
	require.Contains(t, string(said), "--dest-authfile="+dir)
	require.NotContains(t, string(said), "--src-authfile")
	require.NotContains(t, string(said), "of-the-cloud")
	require.Contains(t, string(said), "\n600\n")
	left, err := filepath.Glob(filepath.Join(dir, "skopeo-auth-*"))
	require.NoError(t, err)
	require.Empty(t, left)

	r.Credentials = func(context.Context, string) (containers.Credential, error) {
		return containers.Credential{}, errors.New("no credentials from the cloud")
	}
	err = copyImage(t.Context(), r, from, to, digest)
	var failed *skopeo.Error
	require.ErrorAs(t, err, &failed)
	require.EqualError(t, err, "no credentials from the cloud")
}
