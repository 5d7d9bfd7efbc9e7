package acceptance

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/brokertest"
	"github.com/osism/skopeo-worker/shared/message"
	"github.com/osism/skopeo-worker/shared/run"
	"github.com/osism/skopeo-worker/shared/subject"
)

// buildNewer returns a folder with commands of a future version, which differ only in the version
// of their messages.
func buildNewer(t *testing.T) string {
	t.Helper()
	now, err := filepath.Abs("../../shared/message/chunk.go")
	require.NoError(t, err)
	source, err := os.ReadFile(now)
	require.NoError(t, err)
	const version = "const Version = %d\n"
	later := strings.Replace(string(source), fmt.Sprintf(version, message.Version), fmt.Sprintf(version, message.Version+1), 1)
	require.NotEqual(t, string(source), later)
	folder := t.TempDir()
	changed, overlay := filepath.Join(folder, "chunk.go"), filepath.Join(folder, "overlay.json")
	require.NoError(t, os.WriteFile(changed, []byte(later), 0o600))
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{now: changed}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(overlay, replace, 0o600))

	into, err := filepath.Rel(bin, folder)
	require.NoError(t, err)
	arguments := append([]string{"build", "-overlay", overlay, "-o", folder + string(filepath.Separator)}, buildFlags...)
	out, err := exec.CommandContext(t.Context(), "go",
		append(arguments, "github.com/osism/skopeo-worker/planner", "github.com/osism/skopeo-worker/worker")...).CombinedOutput()
	require.NoError(t, err, string(out))
	return into
}

// fire makes the only schedule of the workers due.
func fire(t *testing.T, b *broker.Broker) {
	t.Helper()
	schedule, err := b.Stream.GetLastMsgForSubject(t.Context(), subject.Later+".>")
	require.NoError(t, err)
	require.NoError(t, b.Fire(t.Context(), schedule))
}

// TestUpgradeAndRollbackInMidRun upgrades the planner before the workers, rolls the workers back
// during a chunk, and upgrades them again.
func TestUpgradeAndRollbackInMidRun(t *testing.T) {
	t.Parallel()
	newer := buildNewer(t)
	s, server := newFleet(t)
	b := brokertest.Open(t, server.Config())
	s.push("osism/tool", "1", "2", "3", "4")
	s.write("osism/tool")
	s.env["WORKER_CONCURRENCY"] = "1"
	newWorker := func() *process {
		p := start(t, s.served().env, "", filepath.Join(newer, "worker"))
		p.says("worker is running")
		return p
	}
	stop := func(p *process) {
		p.signal(syscall.SIGTERM)
		p.exits(0)
	}
	left := func(by *process, id string) {
		by.says("left a chunk to a newer worker")
		s.becomes(id, run.StateSnoozed)
		stop(by)
		require.Empty(t, s.failed())
	}

	old := s.worker()
	id := runID(t, start(t, s.env, "", filepath.Join(newer, "planner"), "plan").exits(0))
	left(old, id)
	require.Zero(t, s.source.Pulls())

	open := s.gate(blobs)
	upgraded := newWorker()
	fire(t, b)
	s.waitFor(blobs)
	upgraded.signal(syscall.SIGTERM)
	upgraded.says("stopping")
	open()
	upgraded.exits(0)
	require.Equal(t, 1, s.source.Pulls())
	left(s.worker(), id)

	newWorker()
	fire(t, b)
	s.becomes(id, run.StateDone)
	s.requireMirrored("osism/tool")
	require.Equal(t, 4, s.source.Pulls())
	require.Equal(t, run.Tally{Total: 4, Copied: 4}, s.status(id).Images)

	// The newer workers also mirror a run of an older planner.
	s.planner("plan", "--wait").exits(0)
	require.Equal(t, run.Tally{Total: 4, Unchanged: 4}, s.status().Images)
}
