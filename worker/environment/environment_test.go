package environment

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestConfine: child processes get the permitted variables only.
func TestConfine(t *testing.T) {
	variables := map[string]bool{ // whether it may get there
		"PATH": true, "HOME": true, "TMPDIR": true, "LC_ALL": true,
		"HTTPS_PROXY": true, "https_proxy": true, "NO_PROXY": true, "SSL_CERT_FILE": true, "SSL_CERT_DIR": true,
		"XDG_RUNTIME_DIR": true, "XDG_CONFIG_HOME": true, "REGISTRY_AUTH_FILE": true, "DOCKER_CONFIG": true,
		"CONTAINERS_REGISTRIES_CONF": true, "REGISTRIES_CONFIG_PATH": true, "STORAGE_DRIVER": true,
		"AWS_SECRET_ACCESS_KEY": true, "AWS_WEB_IDENTITY_TOKEN_FILE": true, "GOOGLE_APPLICATION_CREDENTIALS": true,
		"AZURE_CLIENT_SECRET": true, "MSI_SECRET": true, "PASSWORD_STORE_DIR": true,
		"CI_JOB_TOKEN": true, "VAULT_ADDR": true, // named below
		"NATS_URL": false, "NATS_PASSWORD": false, "NATS_TOKEN": false, "NATS_CREDS": false, "MIRROR_SOURCE_URL": false,
		"MIRROR_DEST_URL": false, "WORKER_CONCURRENCY": false, "DOCKER_AUTH_CONFIG": false, "DATABASE_PASSWORD": false,
		"VAULT_TOKEN": false, "HOMEPAGE": false, "path": false,
	}
	for name := range variables {
		t.Setenv(name, "value of "+name)
	}
	t.Setenv("PATH", "/bin")
	t.Setenv("XDG_DATA_HOME", "")
	Confine([]string{"CI_*", "VAULT_ADDR", "N*", "MIRROR_SOURCE_URL"})
	out, err := exec.CommandContext(t.Context(), "/usr/bin/env").Output()
	require.NoError(t, err)
	got := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), "=")
		got[name] = true
	}
	for name, allowed := range variables {
		require.Equal(t, allowed, got[name], name)
	}
	_, set := os.LookupEnv("XDG_DATA_HOME")
	require.False(t, set, "a variable that is set to nothing")
}

func TestValid(t *testing.T) {
	for name, want := range map[string]bool{
		"CI_JOB_TOKEN": true, "CI_*": true, "_x": true, "N*": true,
		"": false, "*": false, "A B": false, "A=B": false, "A*B": false, "1A": false,
		"NATS_PASSWORD": false, "NATS_*": false, "MIRROR_SOURCE_URL": false,
	} {
		require.Equal(t, want, Valid(name), name)
	}
}

func TestDocs(t *testing.T) {
	docs, err := os.ReadFile("../../docs/configuration.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(docs), "## What skopeo and credential helpers see\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	var listed []string
	for line := range strings.Lines(strings.ReplaceAll(section, `\`, "")) {
		columns := strings.Split(line, "|")
		if len(columns) != 4 || columns[1] == " for " || columns[1] == "---" {
			continue
		}
		listed = append(listed, strings.Split(strings.TrimSpace(columns[2]), ", ")...)
	}
	require.ElementsMatch(t, allowed, listed)
}
