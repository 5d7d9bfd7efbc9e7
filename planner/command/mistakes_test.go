package command

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMistakes: the message for each common mistake is one line that names what to change. Nothing
// is published, and no store is created.
func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	list := file("list.yml", "containers: [nginx]")
	tabbed, spaced := file("tabbed.yml", "containers:\n\t- nginx\n"), file("spaced.yml", "containers:\n  - docker.io/library/nginx: 1.25\n")
	file("torn/containers/policy.json", `{"default": [`)
	for _, c := range []struct {
		command, variable, value string
		code                     int
		want                     string
	}{
		{"mirror", "MIRROR_SOURCE_URL", filepath.Join(dir, "none.yml"), 3, "the list could not be read: " + dir + "/none.yml: no such file or directory"},
		{"mirror", "MIRROR_SOURCE_URL", tabbed, 2, tabbed + ":2: broken YAML: the line is indented with a tab, expected spaces"},
		{"mirror", "MIRROR_SOURCE_URL", spaced, 2, spaced + `:2: expected a string or the key "image", found the key "docker.io/library/nginx"; write docker.io/library/nginx:1.25`},
		{"mirror", "MIRROR_SOURCE_URL", "example.com/images.yml", 3, "the list could not be read: example.com/images.yml: no such file; is https://example.com/images.yml meant?"},
		{"mirror", "MIRROR_SOURCE_URL", file("colon.yml", "containers:\n  - nginx:\n  - image: redis\n    tags: [7]\n"), 2, `:2: expected a string or the key "image", found the key "nginx"; write nginx` + "\n" + dir + "/colon.yml:4: tags: expected a mapping with some of include, exclude, semver, newer_than, limit, list, found a list; write single tags as tags: {list: [a, b]}"},
		{"mirror", "MIRROR_DEST_URL", "https://registry.example.com", 2, "write host[:port]/prefix without https://"},
		{"mirror", "RATE_LIMITS", "docker.io:100/6h", 2, `RATE_LIMITS: expected limits such as docker.io=100/6h,quay.io=20/1s: invalid limit: "docker.io:100/6h": expected registry=requests/window`},
		{"mirror", "DATA_DIR", list, 3, "DATA_DIR cannot be used: mkdir " + list + ": not a directory"},
		{"mirror", "DATA_DIR", "/proc/none", 3, "DATA_DIR cannot be used: mkdir /proc/none: no such file or directory"},
		{"mirror", "XDG_CONFIG_HOME", filepath.Join(dir, "torn"), 2, "the signature policy cannot be read: " + dir + "/torn/containers/policy.json: unexpected end of JSON input"},
		{"serve", "MIRROR_TIMEZONE", "Berlin", 2, `MIRROR_TIMEZONE="Berlin": expected a time zone such as Europe/Berlin` + "\n" + `MIRROR_SCHEDULE="@dayly": expected minute, hour,`},
		{"status", "NATS_URL", "http://127.0.0.1", 2, "NATS_URL: expected nats://host:4222, or tls://, ws:// or wss://"},
	} {
		t.Run(c.variable+"="+filepath.Base(c.value), func(t *testing.T) {
			store := filepath.Join(dir, "data")
			for name, value := range map[string]string{
				"MIRROR_SOURCE_URL": list, "MIRROR_DEST_URL": "127.0.0.1:5000", "DATA_DIR": store, "MIRROR_SCHEDULE": "@dayly", c.variable: c.value,
			} {
				t.Setenv(name, value)
			}
			said, code := execute(t, c.command)
			require.Equal(t, c.code, code, said)
			require.Contains(t, said, c.want)
			require.NoDirExists(t, store)
		})
	}
}
