package bench

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// regsync is the rival's version.
const regsync = "github.com/regclient/regclient/cmd/regsync@v0.11.7"

// built is the folder with the programs, empty until a benchmark asks for them.
var built string

// programs builds ours and the rival, once.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return "", err
	}
	built = dir
	ours := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "github.com/osism/skopeo-worker/planner", "github.com/osism/skopeo-worker/worker")
	rival := exec.Command("go", "install", regsync)
	rival.Dir = dir // outside of our modules
	rival.Env = append(os.Environ(), "GOBIN="+dir, "GOWORK=off")
	for _, build := range []*exec.Cmd{ours, rival} {
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return dir, err
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// used is what a process took.
type used struct {
	time      time.Duration
	processor time.Duration // with its children
	memory    float64       // MB at its largest, without its children
}

// execute runs a program that must succeed.
func execute(b *testing.B, environment []string, name string, arguments ...string) used {
	b.Helper()
	dir, err := programs()
	require.NoError(b, err)
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		path = name
	}
	command := exec.Command(path, arguments...)
	command.Env = append(os.Environ(), environment...)
	command.Dir = b.TempDir()
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	start := time.Now()
	err = command.Run()
	took := time.Since(start)
	require.NoError(b, err, "%s: %s", name, output.String())
	state := command.ProcessState
	return used{took, state.UserTime() + state.SystemTime(), peak(state)}
}

func peak(state *os.ProcessState) float64 {
	usage, ok := state.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return float64(usage.Maxrss) / 1024 // Linux counts in KiB
}

func write(b *testing.B, name, content string) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), name)
	require.NoError(b, os.WriteFile(path, []byte(content), 0o600))
	return path
}
