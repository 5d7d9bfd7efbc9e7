//go:build packages

package packages

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// compose is the newest version of docker compose whose dependencies the module proxy has.
const compose = "github.com/docker/compose/v5/cmd@v5.0.2"

// TestFormula: the formula is valid Ruby, lists the archives with their checksums, and its test
// runs what it installs. testdata/brew.rb does the steps of brew, which is not installed here.
func TestFormula(t *testing.T) {
	formula := found(t, "skopeo-worker.rb")
	require.Equal(t, "Syntax OK\n", run(t, "ruby", "-c", formula))
	for _, platform := range []struct{ os, cpu string }{{"darwin", "arm64"}, {"darwin", "amd64"}, {"linux", "arm64"}} {
		run(t, "ruby", "testdata/brew.rb", formula, platform.os, platform.cpu, found(t, "*_"+platform.os+"_"+platform.cpu+".tar.gz"), "")
	}
	prefix := t.TempDir()
	run(t, "ruby", "testdata/brew.rb", formula, "linux", "amd64", found(t, "*_linux_amd64.tar.gz"), prefix)
	for _, path := range []string{"bin/worker", "share/man/man1/planner-serve.1", "etc/bash_completion.d/planner", "share/zsh/site-functions/_worker"} {
		require.FileExists(t, filepath.Join(prefix, path))
	}
}

// TestCompose: docker compose accepts the file, and requires the variable of the destination. No
// engine is available here to run it.
func TestCompose(t *testing.T) {
	config := func(env ...string) (string, error) {
		c := exec.CommandContext(t.Context(), "go", "run", compose, "--file", "../../deploy/compose.yaml", "config")
		c.Env = append(os.Environ(), env...)
		out, err := c.CombinedOutput()
		return string(out), err
	}
	said, err := config("MIRROR_DEST_URL=")
	require.Error(t, err)
	require.Contains(t, said, "MIRROR_DEST_URL is missing a value: host[:port][/prefix] of the destination")

	said, err = config("MIRROR_DEST_URL=registry.example.com/mirror")
	require.NoError(t, err, said)
	require.Contains(t, said, "MIRROR_DEST_URL: registry.example.com/mirror")
	require.Contains(t, said, "MIRROR_SCHEDULE: 30 2 * * *")
	require.Contains(t, said, "REGISTRY_AUTH_FILE: \"\"")
	require.Contains(t, said, "host_ip: 127.0.0.1")
	require.Contains(t, said, "create_host_path: false")

	said, err = config("MIRROR_DEST_URL=registry.example.com/mirror", "AUTH_FILE=/etc/auth.json")
	require.NoError(t, err, said)
	require.Contains(t, said, "REGISTRY_AUTH_FILE: /run/secrets/auth.json")
	require.Contains(t, said, "source: /etc/auth.json")
}
