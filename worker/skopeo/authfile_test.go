package skopeo_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/worker/containers"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/osism/skopeo-worker/worker/skopeo"
)

// TestCredentials: skopeo reads REGISTRY_AUTH_FILE itself, and gets credentials that are not there in
// another file, and in no argument. On Linux, that file is in no folder, so it does not remain if the
// worker is killed.
func TestCredentials(t *testing.T) {
	for name, wrapper := range map[string]string{"replaced by skopeo": "exec skopeo", "starts skopeo": "skopeo"} {
		t.Run(name, func(t *testing.T) {
			from, to := registrytest.New(t, registrytest.WithBasicAuth("reader", "of-the-file")), registrytest.New(t, registrytest.WithBasicAuth("AWS", "of-the-cloud"))
			digest, err := from.PushImage(source, "1", registrytest.Image{})
			require.NoError(t, err)
			dir := t.TempDir()
			t.Setenv("TMPDIR", dir)
			auth := filepath.Join(t.TempDir(), "auth.json")
			require.NoError(t, os.WriteFile(auth, []byte(`{"auths":{"`+from.Host()+`":{"auth":"cmVhZGVyOm9mLXRoZS1maWxl"}}}`), 0o600))
			t.Setenv("REGISTRY_AUTH_FILE", auth)
			seen := filepath.Join(t.TempDir(), "seen")
			r := script(t, `echo "$*" >>'`+seen+`'; find "$TMPDIR" -type f -exec stat -c 'file %a' '{}' + >>'`+seen+`'; `+wrapper+` "$@"`)
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
			require.Contains(t, string(said), "--dest-authfile=/")
			require.NotContains(t, string(said), "--src-authfile")
			require.NotContains(t, string(said), "of-the-cloud")
			if runtime.GOOS == "linux" {
				require.NotContains(t, string(said), "file ")
			} else {
				require.Contains(t, string(said), "file 600\n")
			}
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

// TestCredentialsOfBothSides: each side has its own credentials, even on the same registry.
func TestCredentialsOfBothSides(t *testing.T) {
	from, to := registrytest.New(t, registrytest.WithBasicAuth("reader", "source")), registrytest.New(t, registrytest.WithBasicAuth("writer", "destination"))
	digest, err := from.PushImage(source, "1", registrytest.Image{})
	require.NoError(t, err)
	r := &skopeo.Runner{Insecure: []string{from.Host(), to.Host()}}
	r.Credentials = func(_ context.Context, repository string) (containers.Credential, error) {
		if repository == to.Host()+"/"+destination {
			return containers.Credential{Username: "writer", Password: "destination"}, nil
		}
		return containers.Credential{Username: "reader", Password: "source"}, nil
	}
	require.NoError(t, copyImage(t.Context(), r, from, to, digest))

	r.Credentials = func(context.Context, string) (containers.Credential, error) {
		return containers.Credential{}, errors.New("no credentials from the cloud")
	}
	err = copyImage(t.Context(), r, from, to, digest)
	var failed *skopeo.Error
	require.ErrorAs(t, err, &failed)
	require.EqualError(t, err, "no credentials from the cloud")
}
