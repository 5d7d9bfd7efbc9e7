// Package acceptance tests the whole: the commands planner and worker as processes, nats-server,
// registries on loopback, and the real skopeo.
package acceptance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	// These are the sources of the processes. They make go test run again when the commands have
	// changed.
	_ "github.com/osism/skopeo-worker/planner/command"
	_ "github.com/osism/skopeo-worker/worker/command"
)

// bin is the folder of the commands.
var bin string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "skopeo-worker-acceptance-"); err != nil {
		fmt.Fprintln(os.Stderr, "making a folder for the commands:", err)
		return 1
	}
	defer os.RemoveAll(bin)
	arguments := append([]string{"build", "-o", bin + string(filepath.Separator)}, buildFlags...)
	build := exec.Command("go", append(arguments, "github.com/osism/skopeo-worker/planner", "github.com/osism/skopeo-worker/worker")...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the commands:", err)
		return 1
	}
	return m.Run()
}
