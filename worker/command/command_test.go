package command

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/exit"
)

// execute runs a command line, and returns its error. The command must end before it waits for its
// broker, which does not exist.
func execute(t *testing.T, arguments ...string) error {
	t.Helper()
	t.Setenv("NATS_URL", "nats://127.0.0.1:1")
	t.Setenv("METRICS_ADDR", "127.0.0.1:0")
	c := New()
	c.SetArgs(arguments)
	return c.ExecuteContext(context.Background())
}

// TestReady: a worker that cannot copy ends with the reason, even if its broker is away.
func TestReady(t *testing.T) {
	dir := t.TempDir()
	torn := filepath.Join(dir, "auth.json")
	require.NoError(t, os.WriteFile(torn, []byte(`{"auths": {`), 0o600))
	home := filepath.Join(dir, "home")
	require.NoError(t, os.MkdirAll(filepath.Join(home, ".docker"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(home, ".docker", "config.json"), []byte("auths:"), 0o600))
	for _, c := range []struct{ variable, value, want string }{
		{"SKOPEO_PATH", "/no/such/skopeo", `skopeo is not installed: program "/no/such/skopeo" not found`},
		{"REGISTRY_AUTH_FILE", filepath.Join(dir, "none.json"), "credentials file: open " + filepath.Join(dir, "none.json") + ": no such file or directory"},
		{"REGISTRY_AUTH_FILE", torn, "credentials file " + torn + ": not valid JSON at byte 11"},
		{"HOME", home, "credentials file " + filepath.Join(home, ".docker", "config.json") + ": not valid JSON at byte 1"},
	} {
		t.Run(c.variable, func(t *testing.T) {
			t.Setenv(c.variable, c.value)
			err := execute(t)
			require.ErrorContains(t, err, c.want)
			require.Equal(t, 2, exit.Code(err))
		})
	}
	require.ErrorIs(t, execute(t, "now"), errUsage)
}
