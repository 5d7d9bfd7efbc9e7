package credential_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/osism/skopeo-worker/worker/credential"
	"github.com/osism/skopeo-worker/worker/registrytest"
	"github.com/stretchr/testify/require"
)

const password = "hunter2"

// isolate points every variable that leads to credentials below a new folder.
func isolate(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("HOME", dir)
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("DOCKER_CONFIG", "")
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

// entry is one item of "auths".
func entry(key, user string) string {
	return fmt.Sprintf(`%q:{"auth":%q}`, key, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

func auths(entries ...string) string {
	all := ""
	for i, entry := range entries {
		if i > 0 {
			all += ","
		}
		all += entry
	}
	return `{"auths":{` + all + `}}`
}

// user returns whose credentials a repository gets, empty for none.
func user(t *testing.T, k *credential.Keychain, repository string) string {
	t.Helper()
	parsed, err := name.NewRepository(repository)
	require.NoError(t, err)
	found, err := k.Resolve(parsed)
	require.NoError(t, err)
	config, err := authn.Authorization(t.Context(), found)
	require.NoError(t, err)
	if config.Username != "" {
		require.Equal(t, password, config.Password)
	}
	return config.Username
}

func TestOrderOfFiles(t *testing.T) {
	dir := isolate(t)
	require.Empty(t, user(t, credential.New(), "quay.io/a/b"))
	for _, at := range []struct{ path, user string }{ // the last first
		{".docker/config.json", "docker"},
		{".config/containers/auth.json", "config"},
		{"run/containers/auth.json", "runtime"},
	} {
		write(t, filepath.Join(dir, at.path), auths(entry("quay.io", at.user)))
		require.Equal(t, at.user, user(t, credential.New(), "quay.io/a/b"))
	}
	write(t, filepath.Join(dir, ".docker/config.json"), auths(entry("ghcr.io", "docker")))
	require.Equal(t, "docker", user(t, credential.New(), "ghcr.io/a"), "files before it know nothing of ghcr.io")

	t.Setenv("DOCKER_CONFIG", filepath.Join(dir, "elsewhere"))
	require.Empty(t, user(t, credential.New(), "ghcr.io/a"))
	write(t, filepath.Join(dir, "elsewhere/config.json"), auths(entry("ghcr.io", "elsewhere")))
	require.Equal(t, "elsewhere", user(t, credential.New(), "ghcr.io/a"))

	write(t, filepath.Join(dir, "named.json"), auths(entry("quay.io", "named")))
	t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(dir, "named.json"))
	require.Equal(t, "named", user(t, credential.New(), "quay.io/a/b"))
	require.Empty(t, user(t, credential.New(), "ghcr.io/a"), "no other file counts")
}

func TestScopes(t *testing.T) {
	path := filepath.Join(isolate(t), "auth.json")
	t.Setenv("REGISTRY_AUTH_FILE", path)
	write(t, path, auths(entry("quay.io", "all"), entry("quay.io/osism", "osism"), entry("quay.io/osism/secret", "secret"),
		entry("ghcr.io/one", "one"), entry("https://reg.example:5000/v2/", "url"), entry("https://index.docker.io/v1/", "hub")))
	k := credential.New()
	for repository, want := range map[string]string{
		"quay.io/other/x":             "all",
		"quay.io/osism/x":             "osism",
		"quay.io/osism/secret":        "secret",
		"quay.io/osism/secret/deep":   "secret",
		"quay.io/osismatic/x":         "all",
		"ghcr.io/one/x":               "one",
		"ghcr.io/two/x":               "",
		"reg.example:5000/a":          "url",
		"docker.io/library/nginx":     "hub",
		"index.docker.io/osism/nginx": "hub",
		"registry-1.docker.io/a/b":    "hub",
	} {
		require.Equal(t, want, user(t, k, repository), repository)
	}
	write(t, path, auths(entry("docker.io/osism", "osism-on-hub"), entry("docker.io", "hub2")))
	require.NoError(t, os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)))
	require.Equal(t, "osism-on-hub", user(t, k, "docker.io/osism/x"), "the file is read again")
	require.Equal(t, "hub2", user(t, k, "docker.io/library/nginx"))
}

func TestHelpers(t *testing.T) {
	dir := isolate(t)
	path := filepath.Join(dir, "auth.json")
	t.Setenv("REGISTRY_AUTH_FILE", path)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for helper, script := range map[string]string{
		"one":   `read server; printf '{"ServerURL":"%s","Username":"one of %s","Secret":"` + password + `"}' "$server" "$server"`,
		"none":  `echo "credentials not found in native keychain"; exit 1`,
		"break": `echo "token ` + password + ` refused"; exit 1`,
	} {
		program := filepath.Join(dir, "docker-credential-"+helper)
		require.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	}
	write(t, path, `{"auths":{"quay.io":{}},"credsStore":"one","credHelpers":
		{"https://index.docker.io/v1/":"one","none.example":"none","break.example":"break","gone.example":"gone"}}`)
	k := credential.New()
	require.Equal(t, "one of https://index.docker.io/v1/", user(t, k, "docker.io/library/nginx"))
	require.Equal(t, "one of quay.io", user(t, k, "quay.io/a/b"))
	require.Empty(t, user(t, k, "none.example/a"))

	for repository, want := range map[string]string{
		"break.example/a": path + ": credential helper docker-credential-break for break.example failed",
		"gone.example/a":  path + ": credential helper docker-credential-gone for gone.example: not found in PATH",
	} {
		parsed, err := name.NewRepository(repository)
		require.NoError(t, err)
		_, err = k.Resolve(parsed)
		require.ErrorIs(t, err, credential.ErrHelper)
		require.EqualError(t, err, want)
	}
}

func TestBrokenFiles(t *testing.T) {
	path := filepath.Join(isolate(t), "auth.json")
	t.Setenv("REGISTRY_AUTH_FILE", path)
	repository, err := name.NewRepository("quay.io/a/b")
	require.NoError(t, err)
	for content, want := range map[string]string{
		`{"auths":{"quay.io":{"auth":hunter2}}}`:             "credentials file " + path + ": not valid JSON at byte 29",
		`{"auths":{"quay.io":{"auth":"hunter2 no base64"}}}`: "credentials file " + path + ": not in the format of containers-auth.json(5)",
	} {
		write(t, path, content)
		_, err = credential.New().Resolve(repository)
		require.ErrorIs(t, err, credential.ErrFile)
		require.EqualError(t, err, want)
	}
	require.NoError(t, os.Remove(path))
	_, err = credential.New().Resolve(repository)
	require.ErrorIs(t, err, credential.ErrFile)
	require.ErrorContains(t, err, path)
}

// TestSameAsSkopeo gives a registry that wants credentials to both.
func TestSameAsSkopeo(t *testing.T) {
	r := registrytest.New(t, registrytest.WithBasicAuth("bob", password))
	_, err := r.PushManifest("osism/tool", "1", types.OCIImageIndex, []byte(`{"schemaVersion":2,"manifests":[]}`))
	require.NoError(t, err)
	for file, content := range map[string]string{
		".docker/config.json":          auths(entry("http://"+r.Host()+"/v1/", "bob")),
		".config/containers/auth.json": auths(entry(r.Host()+"/osism", "bob"), entry(r.Host(), "eve")),
		"run/containers/auth.json":     auths(entry(r.Host()+"/osism/tool", "bob"), entry(r.Host()+"/osism", "eve")),
	} {
		t.Run(file, func(t *testing.T) {
			write(t, filepath.Join(isolate(t), file), content)
			require.Equal(t, "bob", user(t, credential.New(), r.Host()+"/osism/tool"))
			out, err := exec.CommandContext(t.Context(), "skopeo", "inspect", "--raw", "--tls-verify=false",
				"docker://"+r.Host()+"/osism/tool:1").CombinedOutput()
			require.NoError(t, err, string(out))
		})
	}
}
