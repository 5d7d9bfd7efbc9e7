// Package acceptance holds the tests of the whole: the commands planner and
// worker as processes, a nats-server and registries that listen on loopback, and
// the real skopeo.
package acceptance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	// What the processes are made of. Without it a cached result would stand for
	// commands that have changed.
	_ "github.com/osism/skopeo-worker/planner/command"
	_ "github.com/osism/skopeo-worker/worker/command"
)

// bin is the folder with the commands.
var bin string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	var err error
	if bin, err = os.MkdirTemp("", "skopeo-worker-acceptance-"); err != nil {
		fmt.Fprintln(os.Stderr, "making a folder for the commands:", err)
		return 1
	}
	defer os.RemoveAll(bin)
	arguments := append([]string{"build", "-o", bin + string(filepath.Separator)}, raceFlag...)
	build := exec.Command("go", append(arguments, "github.com/osism/skopeo-worker/planner", "github.com/osism/skopeo-worker/worker")...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the commands:", err)
		return 1
	}
	return m.Run()
}
