package containers

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/osism/skopeo-worker/shared/scripttest"
	"github.com/osism/skopeo-worker/worker/cloud"
	"github.com/stretchr/testify/require"
)

// TestHangingHelpers: a helper that does not answer is ended with its child processes, and the error
// names the timeout.
func TestHangingHelpers(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	child := filepath.Join(dir, "child")
	script := "sleep 1000 &\necho $! >'" + child + ".new'; mv '" + child + ".new' '" + child + "'; wait"
	scripttest.Write(t, filepath.Join(dir, "docker-credential-hang"), script)
	auth := filepath.Join(dir, "auth.json")
	require.NoError(t, os.WriteFile(auth, []byte(`{"credHelpers":{"quay.io":"hang"}}`), 0o600))
	t.Setenv("REGISTRY_AUTH_FILE", auth)
	k := New(cloud.New())
	k.timeout = 5 * time.Second
	_, err := k.Find(t.Context(), "quay.io/a")
	require.EqualError(t, err, auth+": credential helper docker-credential-hang for quay.io: no answer within 5s")
	pid, err := os.ReadFile(child)
	require.NoError(t, err)
	process, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		status, err := os.ReadFile("/proc/" + strconv.Itoa(process) + "/stat")
		return err != nil && syscall.Kill(process, 0) != nil || strings.Contains(string(status), ") Z ")
	}, 10*time.Second, 10*time.Millisecond)
}
